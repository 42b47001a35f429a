package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/namespace"
)

// A Socket is a bind source that is a Unix socket: reached through its descriptor, whatever becomes of its name, as a
// bind mount would.
type Socket struct {
	file, procSelfFD *os.File
	kind             int

	Mode     uint32 // permissions
	UID, GID uint32
}

// ErrSequenced refuses sockets of the third kind.
var ErrSequenced = errors.New("the socket is of type SOCK_SEQPACKET, which is not relayed into the guest")

// connectTime is how long a connection may wait for room in a server's backlog.
const connectTime = 5 * time.Second

// Socket returns source i, nil if it is not a socket.
func (t *Tree) Socket(i int) (*Socket, error) {
	if t.Sources[i] == nil {
		return nil, nil
	}
	return t.socket(t.Sources[i])
}

// SocketIn returns the socket of a name in the directory that is source i, nil if there is none. A link is none: whoever may write into
// the directory could have it lead to any socket of the host.
func (t *Tree) SocketIn(i int, name string) (*Socket, error) {
	if t.Sources[i] == nil {
		return nil, nil
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(int(t.Sources[i].Fd()), name, &how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	} else if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	f := os.NewFile(uintptr(fd), name)
	s, err := t.socket(f)
	if s == nil || err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (t *Tree) socket(f *os.File) (*Socket, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(f.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, nil
	}
	s := &Socket{file: f, procSelfFD: t.ProcSelfFD, kind: unix.SOCK_STREAM, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	return s, s.probe()
}

// probe finds out of which type the socket is. A socket of another type refuses the connection, and a server of
// datagrams does not see one: it is asked for first, and a server of streams not at all.
func (s *Socket) probe() error {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		fd, err := s.connect(kind)
		if err != nil {
			continue // EPROTOTYPE, or ECONNREFUSED of a socket that nobody listens on: then each connection fails, later
		}
		unix.Close(fd)
		if kind == unix.SOCK_SEQPACKET {
			return ErrSequenced
		}
		s.kind = kind
		return nil
	}
	return nil
}

// Datagram says whether the socket takes datagrams, not connections.
func (s *Socket) Datagram() bool { return s.kind == unix.SOCK_DGRAM }

// Dial connects to the socket.
func (s *Socket) Dial() (*net.UnixConn, error) {
	fd, err := s.connect(s.kind)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("not a Unix socket: %s", c.LocalAddr())
	}
	return u, nil
}

// connect connects by the name that the descriptor has in /proc/self/fd. The pivoted tree may have no /proc, and
// connect(2) knows no directory but the working one: a thread of its own has it there.
func (s *Socket) connect(kind int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(connectTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	done := make(chan struct{})
	go namespace.OnOwnThread(func() {
		defer close(done)
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			err = os.NewSyscallError("unshare", err)
			return
		}
		if err = unix.Fchdir(int(s.procSelfFD.Fd())); err != nil {
			err = os.NewSyscallError("fchdir", err)
			return
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: strconv.Itoa(int(s.file.Fd()))})
		err = os.NewSyscallError("connect", err)
	})
	<-done
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
