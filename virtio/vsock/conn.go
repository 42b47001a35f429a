package vsock

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// The states of a connection.
type connState int

const (
	connecting  connState = iota // Dial waits for the guest's answer
	offered                      // ServeUnclaimed's function has not decided yet
	established                  //
	closing                      // Close was called; the guest has not agreed yet
	finished                     // nothing comes from the guest any more; a reset may be due
)

// due are the control packets that a connection is to send. Each is sent once, however often it fell due.
type due uint8

const (
	dueRequest due = 1 << iota
	dueResponse
	dueRst
	dueShutdown
	dueCredit
	dueCreditRequest
)

// Conn is one stream between host and guest. It implements net.Conn, with CloseRead and CloseWrite.
type Conn struct {
	d       *Device
	ports   ports
	cid     uint32 // the guest's
	queued  bool   // guarded by d.mu: it is in d.ready
	writeMu sync.Mutex

	mu        sync.Mutex
	readCond  sync.Cond // reader or Dial: something changed
	writeCond sync.Cond
	state     connState
	opened    bool  // was ever established
	asked     bool  // the REQUEST went out
	closed    bool  // Close or Abort was called
	err       error // why it broke; nil as long as it did not
	due       due
	ourShut   uint32 // flags of our SHUTDOWN
	peerShut  uint32 // and of the guest's
	linger    *time.Timer

	rx      ring
	fwdCnt  uint32 // bytes taken out of rx, ever
	toldFwd uint32 // fwdCnt as the guest knows it

	out       []byte // what the current Write has left
	txCnt     uint32 // bytes sent, ever
	peerAlloc uint32
	peerFwd   uint32

	readDeadline, writeDeadline deadline
}

func newConn(d *Device, p ports, cid uint32) *Conn {
	c := &Conn{d: d, ports: p, cid: cid}
	c.readCond.L, c.writeCond.L = &c.mu, &c.mu
	return c
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return &Addr{HostCID, c.ports.host} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return &Addr{c.cid, c.ports.guest} }

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// waitEstablished waits for the guest's answer to the REQUEST.
func (c *Conn) waitEstablished(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.readCond.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == connecting {
		if err := ctx.Err(); err != nil {
			c.finish(err, c.asked)
			return err
		}
		c.readCond.Wait()
	}
	if !c.opened {
		return c.err
	}
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readDeadline.expired:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.rx.n > 0:
			n := c.rx.read(p)
			c.taken(n)
			if c.rx.n == 0 && c.state == finished {
				c.rx = ring{}
			}
			return n, nil
		case c.ourShut&shutdownReceive != 0 || c.peerShut&shutdownSend != 0:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.opError("read", c.err)
		}
		c.readCond.Wait()
	}
}

// taken counts bytes that left the receive buffer, and tells the guest when they are worth a packet.
func (c *Conn) taken(n int) {
	c.fwdCnt += uint32(n)
	if c.state != finished && c.due&dueCredit == 0 && c.fwdCnt-c.toldFwd >= creditStep {
		c.send(dueCredit)
	}
}

// send has a control packet sent.
func (c *Conn) send(what due) {
	c.due |= what
	c.d.enqueue(c)
}

// Write implements net.Conn. It returns when all of p lies in the guest's memory.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeError(); err != nil {
		return 0, c.opError("write", err)
	}
	c.out = p
	if c.wantsToSend() {
		c.d.enqueue(c)
	}
	for len(c.out) > 0 {
		if err := c.writeError(); err != nil {
			n := len(p) - len(c.out)
			c.out = nil
			return n, c.opError("write", err)
		}
		c.writeCond.Wait()
	}
	c.out = nil
	return len(p), nil
}

// writeError says why nothing more can be written.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeDeadline.expired:
		return os.ErrDeadlineExceeded
	case c.err != nil:
		return c.err
	case c.ourShut&shutdownSend != 0 || c.peerShut&shutdownReceive != 0 || c.state == finished:
		return syscall.EPIPE
	}
	return nil
}

// CloseWrite tells the guest that nothing more will come: its reads end. A Write in progress fails.
func (c *Conn) CloseWrite() error { return c.shutdown(shutdownSend) }

// CloseRead tells the guest that nothing more is wanted: its writes fail. What it sent already is dropped.
func (c *Conn) CloseRead() error { return c.shutdown(shutdownReceive) }

func (c *Conn) shutdown(flag uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("shutdown", net.ErrClosed)
	case c.ourShut&flag != 0:
		return nil
	case c.state == finished:
		if c.err != nil {
			return c.opError("shutdown", syscall.ENOTCONN)
		}
		c.ourShut |= flag
	default:
		c.ourShut |= flag
		c.send(dueShutdown)
	}
	if flag == shutdownReceive {
		c.drop()
	}
	c.wake()
	return nil
}

// drop forgets what is in the receive buffer.
func (c *Conn) drop() {
	n := c.rx.n
	c.rx = ring{}
	c.taken(n)
}

func (c *Conn) wake() {
	c.readCond.Broadcast()
	c.writeCond.Broadcast()
}

// Close implements net.Conn. It does not wait: what was written is in the guest's memory; the guest is told that both
// directions end, and has 8 seconds to agree before the connection is reset.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.drop()
	switch c.state {
	case connecting:
		c.finish(net.ErrClosed, c.asked)
	case offered:
		c.finish(net.ErrClosed, true)
	case established:
		c.state = closing
		c.ourShut = shutdownBoth
		c.due &^= dueCredit | dueCreditRequest
		c.send(dueShutdown)
		c.linger = time.AfterFunc(closeTimeout, c.giveUp)
	}
	c.release()
	return nil
}

// giveUp resets a connection whose end the guest did not agree to in time.
func (c *Conn) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == closing {
		c.finish(nil, true)
	}
}

// Abort resets the connection: both sides lose what is under way.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.rx = ring{}
	if c.state != finished {
		c.finish(syscall.ECONNRESET, c.state != connecting || c.asked)
	}
	c.release()
}

// release ends what waits for the connection.
func (c *Conn) release() {
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.wake()
}

// transportReset breaks the connection without a word to the guest, whose driver forgot it.
func (c *Conn) transportReset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == connecting && !c.asked {
		return
	}
	if c.state != finished {
		c.finish(syscall.ECONNRESET, false)
	}
	c.due = 0
	c.d.forget(c)
}

// finish ends the connection for the guest: with a reset, or at once. Until the reset is sent the connection counts
// against the limit. What the guest sent before can still be read.
func (c *Conn) finish(err error, rst bool) {
	c.state, c.err, c.due = finished, err, 0
	if c.linger != nil {
		c.linger.Stop()
	}
	if rst {
		c.send(dueRst)
	} else {
		c.d.forget(c)
	}
	c.wake()
}

// deadline is one direction's; the connection's mu guards it.
type deadline struct {
	timer   *time.Timer
	expired bool
	set     int // counts the settings: a timer that was too late to stop finds another number
}

func (l *deadline) stop() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.set++
}

// arm sets the deadline; cond hears when it expires. The caller holds cond.L.
func (l *deadline) arm(t time.Time, cond *sync.Cond) {
	l.stop()
	l.expired = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		l.expired = true
		cond.Broadcast()
		return
	}
	set := l.set
	l.timer = time.AfterFunc(left, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if l.set == set {
			l.expired = true
			cond.Broadcast()
		}
	})
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.readDeadline.arm(t, &c.readCond)
	}
	if write {
		c.writeDeadline.arm(t, &c.writeCond)
	}
	return nil
}
