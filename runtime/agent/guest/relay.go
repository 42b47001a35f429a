package guest

import (
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// relay carries what is sent to a socket in the container to the socket of the host that was bound there.
type relay struct {
	s      *server
	socket *os.File
	id     uint32 // of the stream, dialled once a connection
	// answers says that datagrams have a sender's address, to which the host may answer.
	answers bool
	// ended is closed when no datagram is under way any more; nil for connections.
	ended chan struct{}
}

// relay begins to serve the sockets that the stage of a container's first process made, in the order of their mounts.
func (s *server) relay(p *process, m agent.Message, fds []int) error {
	var sockets []agent.Socket
	if c, ok := m.(*agent.CreateContainer); ok {
		for i := range c.Mounts {
			if c.Mounts[i].Socket.Kind != 0 {
				sockets = append(sockets, c.Mounts[i].Socket)
			}
		}
	}
	if len(fds) != len(sockets) {
		closeAll(fds)
		return errors.New(strconv.Itoa(len(fds)) + " sockets were made of " + strconv.Itoa(len(sockets)))
	}
	for i, fd := range fds {
		r := &relay{s: s, socket: pollable(fd, "socket"), id: sockets[i].Stream}
		p.relays = append(p.relays, r)
		if sockets[i].Kind == agent.DatagramSocket {
			r.ended = make(chan struct{})
			go func() {
				defer close(r.ended)
				r.datagrams()
			}()
		} else {
			go r.connections()
		}
	}
	return nil
}

func (r *relay) close() { r.socket.Close() }

// endRelays closes the sockets of a process that has ended. What it sent to those for datagrams before reaches the host's first, as it had
// under a runtime whose containers share the host's kernel: the last line of a log, say.
func (p *process) endRelays() {
	late := time.NewTimer(drainTime)
	defer late.Stop()
	for _, r := range p.relays {
		if r.ended != nil {
			_ = r.socket.SetReadDeadline(time.Now())
		}
	}
	for _, r := range p.relays {
		if r.ended != nil {
			select {
			case <-r.ended:
			case <-late.C:
				late.Reset(0)
			}
		}
		r.close()
	}
}

// wait calls f, which must not wait itself, until it says something else than EAGAIN.
func wait(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = c.Read(func(fd uintptr) bool {
		ferr = retry(func() error { return f(int(fd)) })
		return !errors.Is(ferr, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return ferr
}

// now calls f, which does not wait.
func now(file *os.File, f func(fd int) error) (ferr error) {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if err := c.Control(func(fd uintptr) { ferr = retry(func() error { return f(int(fd)) }) }); err != nil {
		return err
	}
	return ferr
}

// connections accepts until the socket is closed. One beyond the bound waits, and those behind it do in the backlog.
func (r *relay) connections() {
	for {
		var conn int
		err := wait(r.socket, func(fd int) (err error) {
			conn, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err
		})
		if errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return
		}
		r.s.relayed <- struct{}{}
		go func() {
			defer func() { <-r.s.relayed }()
			r.carry(os.NewFile(uintptr(conn), "connection"))
		}()
	}
}

// carry carries one connection.
func (r *relay) carry(conn *os.File) {
	stream, err := r.connect()
	if err != nil {
		conn.Close()
		return
	}
	join(conn, stream)
}

// join carries what either of two connections says to the other, each direction until its own end, and closes both.
func join(conn *os.File, stream Stream) {
	defer conn.Close()
	defer stream.Close()
	down := make(chan struct{})
	go func() {
		defer close(down)
		if pump(conn, stream) != nil {
			conn.Close() // nobody reads any more, or the host is gone
			return
		}
		shutdown(conn)
	}()
	if pump(stream, conn) != nil || hungUp(conn) {
		stream.Close()
	} else {
		_ = stream.CloseWrite()
	}
	<-down
}

var errNotConnected = errors.New("the host's server has not taken the connection")

// maxDialled bounds the streams that the host has not looked at yet. It closes them when they are too many.
const maxDialled = 16

// connect dials a stream and waits until the host's socket has taken the connection.
func (r *relay) connect() (Stream, error) {
	r.s.dialled <- struct{}{}
	defer func() { <-r.s.dialled }()
	stream, err := r.s.dial(r.id)
	if err != nil {
		return nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(stream, first); err != nil || first[0] != agent.Connected {
		stream.Close()
		return nil, errNotConnected
	}
	return stream, nil
}

// pump copies until src ends.
func pump(dst io.Writer, src io.Reader) error {
	buf := make([]byte, relayBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// relayBuffer is what a relay moves at a time, in bytes: one packet of vsock.
const relayBuffer = 64 << 10

func shutdown(conn *os.File) {
	if c, err := conn.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// hungUp tells a peer that has closed its end from one that only has nothing more to say.
func hungUp(conn *os.File) (gone bool) {
	c, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	_ = c.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, _ = unix.Poll(p, 0)
		gone = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone
}

// datagrams carries datagrams over one stream, which is dialled when the first comes, and again when it broke, until the socket is closed or,
// with a deadline in the past, empty. For Unix sockets there is no way back: one that sends datagrams mostly has no name to send to.
func (r *relay) datagrams() {
	buf := make([]byte, agent.MaxDatagram)
	var stream Stream
	defer func() {
		if stream != nil {
			hangUp(stream)
		}
	}()
	for {
		var n, flags int
		var from unix.Sockaddr
		receive := func(fd int) (err error) {
			n, _, flags, from, err = unix.Recvmsg(fd, buf, nil, unix.MSG_DONTWAIT)
			return err
		}
		err := wait(r.socket, receive)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = now(r.socket, receive)
		}
		switch {
		case err != nil:
			return
		case flags&unix.MSG_TRUNC != 0:
		case r.answers:
			stream = r.send(stream, senderOf(from).Append(nil, buf[:n]))
		default:
			stream = r.send(stream, buf[:n])
		}
	}
}

// hangUp ends a stream when the host has taken all that it was sent.
func hangUp(stream Stream) {
	late := time.AfterFunc(drainTime, func() { stream.Close() })
	defer late.Stop()
	defer stream.Close()
	if stream.CloseWrite() == nil {
		_, _ = stream.Read(make([]byte, 1))
	}
}

// send sends a datagram over stream or a new one, and returns the one that works.
func (r *relay) send(stream Stream, p []byte) Stream {
	if stream != nil {
		if agent.WriteDatagram(stream, p) == nil {
			return stream
		}
		stream.Close()
	}
	stream, err := r.s.dial(r.id)
	if err != nil {
		return nil
	}
	if r.answers {
		go r.answer(stream)
	}
	if agent.WriteDatagram(stream, p) != nil {
		stream.Close()
		return nil
	}
	return stream
}
