package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A plainSocket is a blocking socket of which Go's runtime does not know. A program in Go has threads of its own which the kernel wakes: one for
// each datagram that has left, and one that looks on for as long as another is in a system call. On one CPU they are what decides whom its
// scheduler picks next.
type plainSocket struct {
	fd       int
	patience time.Duration // of a Read; 0 is for ever
}

func (s *plainSocket) Read(p []byte) (int, error) {
	var since time.Time
	for {
		n, err := rawCall(unix.SYS_READ, s.fd, p)
		switch {
		case n == 0 && err == nil:
			return 0, io.EOF
		case !errors.Is(err, unix.EINTR): // Go's runtime asks for the thread every 10 ms, and the kernel's patience begins anew
			return n, err
		case since.IsZero():
			since = time.Now()
		case s.patience > 0 && time.Since(since) > s.patience:
			return 0, unix.EAGAIN
		}
	}
}

func (s *plainSocket) Write(p []byte) (int, error) {
	for {
		if n, err := rawCall(unix.SYS_WRITE, s.fd, p); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (s *plainSocket) Close() error { return unix.Close(s.fd) }

// socketKind is what a plain load needs.
func socketKind(load rune) int {
	if load == loadPlainRoundTrips {
		return unix.SOCK_STREAM
	}
	return unix.SOCK_DGRAM
}

// newPlain returns a socket for the load, neither bound nor connected.
func newPlain(load rune) (*plainSocket, error) {
	fd, err := unix.Socket(unix.AF_INET, socketKind(load)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &plainSocket{fd: fd}, nil
}

// hurry has each Read fail with EAGAIN when nothing comes for as long as datagrams are held to be lost.
func (s *plainSocket) hurry() error {
	s.patience = lossTime
	t := unix.NsecToTimeval(lossTime.Nanoseconds())
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t))
}

// takePlainPart is the server's side of a plain load of n: it tells its port, and is connected by the client's first byte.
func takePlainPart(c net.Conn, load rune, n int) error {
	s, err := newPlain(load)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := unix.Bind(s.fd, &unix.SockaddrInet4{}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if load == loadPlainRoundTrips {
		if err := unix.Listen(s.fd, 1); err != nil {
			return os.NewSyscallError("listen", err)
		}
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if err := tellPort(c, name.(*unix.SockaddrInet4).Port); err != nil {
		return err
	}
	if load == loadPlainRoundTrips {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("accept4", err)
		}
		stream := &plainSocket{fd: fd}
		defer func() { _ = stream.Close() }()
		return echo(stream)
	}
	_, peer, err := unix.Recvfrom(s.fd, make([]byte, 1), 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if err := unix.Connect(s.fd, peer); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if load == loadPlainOut {
		if err := s.send(n); err != nil {
			return err
		}
		_, _ = c.Read(make([]byte, 1)) // until the client has gone: its last answers are not to be refused
		return nil
	}
	n, err = s.receive(n)
	if err != nil {
		return err
	}
	return tellCount(c, n)
}

// runPlainClient is the client's side, and prints how much arrived.
func runPlainClient(out io.Writer, c net.Conn, load rune, server *net.UDPAddr, n int) error {
	s, err := newPlain(load)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := unix.Connect(s.fd, &unix.SockaddrInet4{Port: server.Port, Addr: [4]byte(server.IP.To4())}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if load == loadPlainRoundTrips {
		return roundTrips(out, s, n)
	}
	if _, err := s.Write([]byte{0}); err != nil {
		return err
	}
	if load == loadPlainOut {
		n, err = s.receive(n)
	} else if err = s.send(n); err == nil {
		n, err = toldCount(c)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, n)
	return err
}

// send is send of Go's sockets, by a plain one.
func (s *plainSocket) send(n int) error {
	if err := s.hurry(); err != nil {
		return err
	}
	return sendBy(s.Write, s.Read, n)
}

// receive counts datagrams and answers, until n have arrived or none does for a while.
func (s *plainSocket) receive(n int) (int, error) {
	b := make([]byte, datagramSize)
	for got := 0; got < n; {
		if _, err := s.Read(b); err != nil {
			if errors.Is(err, unix.EAGAIN) {
				return got, nil
			}
			return got, err
		}
		if got++; got%ackEvery == 0 {
			if _, err := s.Write(b[:1]); err != nil {
				return got, err
			}
		}
		if got == 1 {
			if err := s.hurry(); err != nil {
				return got, err
			}
		}
	}
	return n, nil
}
