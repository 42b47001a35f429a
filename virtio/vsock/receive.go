package vsock

import (
	"context"
	"syscall"

	"github.com/govmm/govmm/virtio"
)

// serveTX takes the guest's packets. With too many resets waiting for receive buffers it leaves them where they are, as
// Linux's vhost does: sendReply wakes it.
func (d *Device) serveTX(ctx context.Context, q *virtio.Queue) error {
	for n := 1; ctx.Err() == nil; n++ {
		if d.hold() {
			return nil
		}
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.receive(c)
		if err := q.Push(c, 0); err != nil {
			return err
		}
		if n%notifyEvery == 0 {
			q.Notify()
		}
	}
	return ctx.Err()
}

// hold says whether there is no place for another reply. A packet causes at most one.
func (d *Device) hold() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = len(d.replies) >= maxReplies
	return d.held
}

// receive handles one packet from the guest.
func (d *Device) receive(chain *virtio.Chain) {
	var raw [headerSize]byte
	if chain.ReadHeader(raw[:]) < headerSize {
		d.complain("a packet without a header", &header{})
		return
	}
	h := parseHeader(&raw)
	c, wrong := d.route(&h)
	switch {
	case wrong != "":
		d.complain(wrong, &h)
	case c != nil:
		c.receive(&h, chain)
	}
}

// route returns the connection that a packet is for. One that is for none it handles; what is wrong about that, if
// anything, is for the log.
func (d *Device) route(h *header) (c *Conn, wrong string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case h.srcCID != uint64(d.cid) || h.dstCID != HostCID:
		return nil, "a packet from or to another CID"
	case h.kind != typeStream:
		d.refuse(h)
		return nil, "a packet of another type than stream"
	}
	if c := d.conns[ports{host: h.dstPort, guest: h.srcPort}]; c != nil {
		return c, ""
	}
	if h.op != opRequest || !d.accept(h) {
		d.refuse(h)
	}
	return nil, ""
}

// refuse answers a packet that belongs to no connection with a reset (virtio 1.2 §5.10.6.4). The caller holds d.mu.
func (d *Device) refuse(h *header) {
	if h.op == opRst {
		return
	}
	d.replies = append(d.replies, header{
		srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort, kind: h.kind, op: opRst,
	})
	d.wakeLocked()
}

// accept makes a connection of a REQUEST, if somebody listens and there is room. The caller holds d.mu.
func (d *Device) accept(h *header) bool {
	l := d.listeners[h.dstPort]
	switch {
	case len(d.conns) >= d.cfg.MaxConns || d.closed:
		return false
	case l != nil && len(l.conns) == cap(l.conns):
		return false
	case l == nil && (d.unclaimed == nil || d.serving >= d.cfg.MaxConns):
		// A guest that resets what it asked for does not have it in the table, but may well keep a goroutine, and what
		// that holds: hence a count of its own.
		return false
	}
	c := newConn(d, ports{host: h.dstPort, guest: h.srcPort}, d.cid)
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	d.conns[c.ports] = c
	if l == nil {
		c.state = offered
		d.serving++
		go c.serveUnclaimed(d.unclaimed)
		return true
	}
	c.state, c.opened, c.due = established, true, dueResponse
	c.queued = true
	d.ready = append(d.ready, c)
	d.wakeLocked()
	l.conns <- c
	return true
}

// receive handles a packet for this connection.
func (c *Conn) receive(h *header, chain *virtio.Chain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == finished {
		return // its reset is on the way
	}
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	ok := true
	switch {
	case h.op == opRst:
		c.receiveRst()
	case c.state == connecting:
		ok = h.op == opResponse && c.asked
		if ok {
			c.state, c.opened = established, true
			c.readCond.Broadcast()
		}
	case c.state == offered:
		ok = false
	case h.op == opRW:
		ok = c.receiveData(h, chain)
	case h.op == opCreditUpdate:
	case h.op == opCreditRequest:
		c.send(dueCredit)
	case h.op == opShutdown:
		c.receiveShutdown(h.flags)
	default:
		ok = false
	}
	switch {
	case !ok:
		c.d.complain("a packet that breaks the rules: the connection is reset", h)
		c.finish(syscall.ECONNRESET, true)
	case len(c.out) > 0 && c.wantsToSend():
		c.d.enqueue(c)
	}
}

func (c *Conn) receiveRst() {
	switch {
	case c.state == connecting && c.asked:
		c.finish(syscall.ECONNREFUSED, false)
	case c.state == connecting:
		// Not ours: the guest cannot know of this connection yet.
	case c.state == closing:
		c.finish(nil, false)
	default:
		c.finish(syscall.ECONNRESET, false)
	}
}

// receiveShutdown notes which directions the guest gave up; with both the connection has ended and a reset confirms it.
func (c *Conn) receiveShutdown(flags uint32) {
	c.peerShut |= flags & shutdownBoth
	if c.peerShut == shutdownBoth {
		c.finish(nil, true)
		return
	}
	c.wake()
}

// receiveData copies a packet's payload into the receive buffer. It returns false when the guest sends more than the
// packet has, than the credit allows, or after it said that it would not.
func (c *Conn) receiveData(h *header, chain *virtio.Chain) bool {
	n := int(h.length)
	switch {
	case uint64(h.length) > chain.ReadableLen()-headerSize, c.peerShut&shutdownSend != 0, c.rx.n+n > bufAlloc:
		return false
	case n == 0:
	case c.ourShut&shutdownReceive != 0:
		// It may have been on its way when the guest was told.
		c.taken(n)
	default:
		c.rx.write(virtio.Skip(chain.Readable(), headerSize), n)
		c.readCond.Broadcast()
	}
	return true
}
