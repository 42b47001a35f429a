package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The loads that a server takes part in, as the client's first byte names them; four bytes with a number follow.
const (
	loadRoundTrips = 'r' // the client sends a byte, the server answers with one
	loadIn         = 'i' // the client sends datagrams
	loadPlainIn    = 'p' // the same by system calls, so that Go's poller is not woken by each datagram that has left; to the server, loadIn
	loadOut        = 'o' // the server does
)

const (
	datagramSize = 64
	// A sender has at most window datagrams under way, which any receive buffer holds; a receiver answers one in ackEvery.
	window   = 128
	ackEvery = 32
	// lossTime is after how long datagrams under way are held to be lost.
	lossTime = 200 * time.Millisecond
)

// serve takes part in loads at a TCP address.
func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = takePart(c)
		}()
	}
}

func takePart(c net.Conn) error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	if head[0] == loadRoundTrips {
		return echo(c)
	}
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer u.Close()
	port := binary.BigEndian.AppendUint16(nil, uint16(u.LocalAddr().(*net.UDPAddr).Port))
	if _, err := c.Write(port); err != nil {
		return err
	}
	if head[0] == loadIn {
		n, err := receive(u, c)
		if err != nil {
			return err
		}
		_, err = c.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
		return err
	}
	hello := make([]byte, 1)
	_, peer, err := u.ReadFromUDP(hello)
	if err != nil {
		return err
	}
	if err := send(u, peer, int(binary.BigEndian.Uint32(head[1:]))); err != nil {
		return err
	}
	_, err = c.Write([]byte{0})
	return err
}

func echo(c net.Conn) error {
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// send sends n datagrams to peer, as fast as the receiver answers.
func send(u *net.UDPConn, peer *net.UDPAddr, n int) error {
	write := func(p []byte) (int, error) { return u.WriteToUDP(p, peer) }
	read := func(p []byte) (int, error) {
		if err := u.SetReadDeadline(time.Now().Add(lossTime)); err != nil {
			return 0, err
		}
		return u.Read(p)
	}
	return sendBy(write, read, n)
}

// sendBy is send by functions that send a datagram and wait for an answer, the latter at most for lossTime.
func sendBy(write, read func([]byte) (int, error), n int) error {
	data, ack := make([]byte, datagramSize), make([]byte, 1)
	for underWay := 0; n > 0; n-- {
		if _, err := write(data); err != nil {
			return err
		}
		for underWay++; underWay >= window; underWay -= ackEvery {
			if _, err := read(ack); err != nil {
				underWay = ackEvery // lost
			}
		}
	}
	return nil
}

// sendPlain is send by a blocking socket, of which Go's runtime does not know.
func sendPlain(peer *net.UDPAddr, n int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(lossTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: peer.Port, Addr: [4]byte(peer.IP.To4())}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	write := func(p []byte) (int, error) { return rawCall(unix.SYS_WRITE, fd, p) }
	read := func(p []byte) (int, error) { return rawCall(unix.SYS_READ, fd, p) }
	return sendBy(write, read, n)
}

// receive counts datagrams and answers, until the sender says on the other connection that it is done.
func receive(u *net.UDPConn, c net.Conn) (int, error) {
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		_ = u.SetReadDeadline(time.Now().Add(lossTime))
		done <- err
	}()
	b := make([]byte, datagramSize)
	for n := 0; ; {
		_, peer, err := u.ReadFromUDP(b)
		if err != nil {
			return n, <-done
		}
		if n++; n%ackEvery == 0 {
			if _, err := u.WriteToUDP(b[:1], peer); err != nil {
				return n, err
			}
		}
	}
}

// runClient is the client's side of a load of n, and prints how much arrived.
func runClient(out io.Writer, kind, address string, n int) error {
	if len(kind) != 1 {
		return fmt.Errorf("no load %q", kind)
	}
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	request := kind[0]
	if request == loadPlainIn {
		request = loadIn
	}
	if _, err := c.Write(binary.BigEndian.AppendUint32([]byte{request}, uint32(n))); err != nil {
		return err
	}
	if kind[0] == loadRoundTrips {
		return roundTrips(out, c, n)
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(c, port); err != nil {
		return err
	}
	server := &net.UDPAddr{IP: c.RemoteAddr().(*net.TCPAddr).IP, Port: int(binary.BigEndian.Uint16(port))}
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer u.Close()
	got := 0
	switch kind[0] {
	case loadIn:
		got, err = arrived(c, send(u, server, n))
	case loadPlainIn:
		got, err = arrived(c, sendPlain(server, n))
	default:
		if _, err = u.WriteToUDP([]byte{0}, server); err == nil {
			got, err = receive(u, c)
		}
	}
	_, _ = fmt.Fprintln(out, got)
	return err
}

// arrived says to the server that all has been sent, unless there was an error, and asks it how much has arrived.
func arrived(c net.Conn, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte{0}); err != nil {
		return 0, err
	}
	n := make([]byte, 4)
	if _, err := io.ReadFull(c, n); err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint32(n)), nil
}

// roundTrips sends a byte and waits for the answer, so many times.
func roundTrips(out io.Writer, c net.Conn, n int) error {
	b := make([]byte, 1)
	for range n {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(out, n)
	return err
}

// awaitServer waits until a subject's server answers.
func awaitServer(address string) error {
	err := errors.New("no time")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("the server in the guest does not answer: %w", err)
}
