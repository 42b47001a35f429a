package guest

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// connectTime is how long a server in the guest may take to accept a connection.
const connectTime = 10 * time.Second

// socketAddress reads an address as messages hold it.
func socketAddress(address string, port uint16) (unix.Sockaddr, int, error) {
	switch len(address) {
	case 4:
		return &unix.SockaddrInet4{Addr: [4]byte([]byte(address)), Port: int(port)}, unix.AF_INET, nil
	case 16:
		return &unix.SockaddrInet6{Addr: [16]byte([]byte(address)), Port: int(port)}, unix.AF_INET6, nil
	}
	return nil, 0, failure(agent.Invalid, "an address has 4 or 16 bytes")
}

// connect begins to connect to a server in the guest. What becomes of it is said on the stream: a server that lets others wait must not
// keep requests from being carried out.
func (s *server) connect(m *agent.Connect) error {
	to, family, err := socketAddress(m.Address, m.Port)
	if err != nil {
		return err
	}
	select {
	case s.relayed <- struct{}{}:
	default:
		return failure(agent.Failed, "too many relayed connections")
	}
	go func() {
		defer func() { <-s.relayed }()
		kind, carry := unix.SOCK_STREAM, join
		if m.Datagrams {
			kind, carry = unix.SOCK_DGRAM, converse
		}
		conn, err := dialServer(to, family, kind)
		stream, serr := s.dial(m.Stream)
		switch {
		case serr != nil && err == nil:
			conn.Close()
		case serr != nil:
		case err != nil:
			_, _ = stream.Write([]byte{refusal(err)})
			stream.Close()
		default:
			if _, err := stream.Write([]byte{agent.Connected}); err == nil {
				carry(conn, stream)
			}
		}
	}()
	return nil
}

// refusal is the byte that says why there is no connection.
func refusal(err error) byte {
	errno := unix.EIO
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return byte(unix.ETIMEDOUT)
	}
	_ = errors.As(err, &errno)
	return byte(errno)
}

func dialServer(to unix.Sockaddr, family, kind int) (*os.File, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	conn := pollable(fd, "connection")
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// converse carries datagrams between a socket and a stream, until the host ends the stream, and closes both. Those that nobody takes are
// lost, as datagrams are.
func converse(conn *os.File, stream Stream) {
	defer conn.Close()
	defer stream.Close()
	go func() {
		for buf := make([]byte, maxUDP); ; {
			var n int
			err := wait(conn, func(fd int) (err error) {
				n, err = unix.Read(fd, buf)
				return err
			})
			if errors.Is(err, unix.ECONNREFUSED) {
				continue // said once for each datagram that was sent
			}
			if err != nil || agent.WriteDatagram(stream, buf[:n]) != nil {
				stream.Close()
				return
			}
		}
	}()
	c, err := conn.SyscallConn()
	if err != nil {
		return
	}
	for buf := []byte(nil); ; {
		if buf, err = agent.ReadDatagram(stream, buf); err != nil {
			return
		}
		_ = c.Control(func(fd uintptr) {
			if _, err := unix.Write(int(fd), buf); errors.Is(err, unix.ECONNREFUSED) {
				_, _ = unix.Write(int(fd), buf) // it was an earlier one that nobody took
			}
		})
	}
}

// maxUDP is the longest that a datagram of UDP is, in bytes.
const maxUDP = 64 << 10

// connected waits until a connection is made.
func connected(conn *os.File) error {
	c, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(connectTime))
	var serr error
	err = c.Write(func(fd uintptr) bool {
		var errno int
		if errno, serr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); errno != 0 {
			serr = unix.Errno(errno)
		}
		if serr != nil {
			return true
		}
		_, err := unix.Getpeername(int(fd))
		return !errors.Is(err, unix.ENOTCONN)
	})
	_ = conn.SetWriteDeadline(time.Time{})
	if err != nil {
		return err
	}
	return serr
}

// listen begins to stand in for a server of the host, as long as the guest runs.
func (s *server) listen(m *agent.Listen, r *agent.Reply) error {
	address, family, err := socketAddress(m.Address, 0)
	if err != nil {
		return err
	}
	kind := unix.SOCK_STREAM
	if m.Datagrams {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	relay := &relay{s: s, socket: pollable(fd, "socket"), id: m.Stream, answers: m.Datagrams}
	err = unix.Bind(fd, address)
	if err == nil && !m.Datagrams {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	var own unix.Sockaddr
	if err == nil {
		own, err = unix.Getsockname(fd)
	}
	if err != nil {
		relay.close()
		return wrap("listen", err)
	}
	r.Port = portOf(own)
	if m.Datagrams {
		go relay.datagrams()
	} else {
		go relay.connections()
	}
	return nil
}

func portOf(a unix.Sockaddr) uint16 {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	}
	return 0
}

// senderOf is who sent a datagram, for the host.
func senderOf(a unix.Sockaddr) agent.Sender {
	s := agent.Sender{Port: portOf(a)}
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		s.Address = string(a.Addr[:])
	case *unix.SockaddrInet6:
		s.Address = string(a.Addr[:])
	}
	return s
}

// answer passes on the host's answers to who sent datagrams, as long as the stream lives.
func (r *relay) answer(stream Stream) {
	for buf := []byte(nil); ; {
		var err error
		if buf, err = agent.ReadDatagram(stream, buf); err != nil {
			return
		}
		sender, p, err := agent.CutSender(buf)
		if err != nil {
			return
		}
		to, _, err := socketAddress(sender.Address, sender.Port)
		if err != nil {
			return
		}
		if c, err := r.socket.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), p, 0, to) })
		}
	}
}
