package guest

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

const (
	sysctlNet = "/proc/sys/net/"
	// netlinkSeconds is how long the kernel may take for an answer, which it gives at once as a rule.
	netlinkSeconds = 10
)

// network carries out what the host has made for this kernel.
func network(m *agent.Network, r *agent.Reply) {
	r.Answers = make([]agent.Answer, len(m.Steps))
	for i := range m.Steps {
		var err error
		if s := &m.Steps[i]; s.Request == "" {
			err = writeFile(sysctlNet+s.Sysctl.Name, s.Sysctl.Value)
		} else {
			r.Answers[i].Data, err = askNetlink(int(s.Protocol), []byte(s.Request))
		}
		if err == nil {
			continue
		}
		errno := unix.EIO
		_ = errors.As(err, &errno)
		r.Answers[i].Errno = uint32(errno)
	}
}

// askNetlink sends a request on a socket of its own, and collects the answer up to the message that says how it went: of a batch that
// is the first one to fail, or the one that asks for an acknowledgement.
func askNetlink(protocol int, request []byte) (string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: netlinkSeconds}); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", err
	}
	var data []byte
	for buf := make([]byte, 32<<10); ; {
		var n int
		err := retry(func() (err error) {
			n, _, err = unix.Recvfrom(fd, buf, 0)
			return err
		})
		if err != nil {
			return "", err
		}
		messages, errno, done := answerEnd(buf[:n])
		if data = append(data, messages...); len(data) > agent.MaxAnswer {
			return "", unix.EMSGSIZE
		}
		if errno != 0 {
			return string(data), errno
		}
		if done {
			return string(data), nil
		}
	}
}

// answerEnd looks for the message that ends an answer, and returns those before it.
func answerEnd(b []byte) (before []byte, errno unix.Errno, done bool) {
	const head = unix.SizeofNlMsghdr
	for rest := b; len(rest) >= head; {
		n := int(binary.NativeEndian.Uint32(rest))
		if n < head || n > len(rest) {
			break
		}
		switch binary.NativeEndian.Uint16(rest[4:]) {
		case unix.NLMSG_ERROR:
			if n < head+4 {
				return nil, unix.EBADMSG, true
			}
			return b[:len(b)-len(rest)], unix.Errno(-int32(binary.NativeEndian.Uint32(rest[head:]))), true
		case unix.NLMSG_DONE:
			return b[:len(b)-len(rest)], 0, true
		}
		rest = rest[min((n+3)&^3, len(rest)):]
	}
	return b, 0, false
}
