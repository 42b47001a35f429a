package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The loads that a server takes part in, as the client's first byte names them; four bytes with a number follow. A capital letter is the same
// load with plain sockets at both ends: as of a program in C, which nothing but its own system calls wakes.
const (
	loadRoundTrips      = 'r' // the client sends a byte, the server answers with one
	loadIn              = 'i' // the client sends datagrams
	loadOut             = 'o' // the server does
	loadPlainRoundTrips = 'R'
	loadPlainIn         = 'I'
	loadPlainOut        = 'O'
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
	n := int(binary.BigEndian.Uint32(head[1:]))
	switch head[0] {
	case loadRoundTrips:
		return echo(c)
	case loadPlainRoundTrips, loadPlainIn, loadPlainOut:
		return takePlainPart(c, rune(head[0]), n)
	}
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := tellPort(c, u.LocalAddr().(*net.UDPAddr).Port); err != nil {
		return err
	}
	if head[0] == loadIn {
		n, err := receive(u, c)
		if err != nil {
			return err
		}
		return tellCount(c, n)
	}
	hello := make([]byte, 1)
	_, peer, err := u.ReadFromUDP(hello)
	if err != nil {
		return err
	}
	if err := send(u, peer, n); err != nil {
		return err
	}
	_, err = c.Write([]byte{0})
	return err
}

func tellPort(c io.Writer, port int) error {
	_, err := c.Write(binary.BigEndian.AppendUint16(nil, uint16(port)))
	return err
}

func tellCount(c io.Writer, n int) error {
	_, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
	return err
}

func echo(c io.ReadWriter) error {
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
	if _, err := c.Write(binary.BigEndian.AppendUint32([]byte{kind[0]}, uint32(n))); err != nil {
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
	switch kind[0] {
	case loadPlainRoundTrips, loadPlainIn, loadPlainOut:
		return runPlainClient(out, c, rune(kind[0]), server, n)
	}
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer u.Close()
	got := 0
	switch kind[0] {
	case loadIn:
		got, err = arrived(c, send(u, server, n))
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
	return toldCount(c)
}

func toldCount(c io.Reader) (int, error) {
	n := make([]byte, 4)
	if _, err := io.ReadFull(c, n); err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint32(n)), nil
}

// roundTrips sends a byte and waits for the answer, so many times.
func roundTrips(out io.Writer, c io.ReadWriter, n int) error {
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
