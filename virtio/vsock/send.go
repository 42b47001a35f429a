package vsock

import (
	"context"
	"slices"

	"github.com/govmm/govmm/virtio"
)

// serveRX gives the guest what there is for it: replies first, then the connections in turn, a packet each.
func (d *Device) serveRX(ctx context.Context, q *virtio.Queue) error {
	for n := 1; ctx.Err() == nil; n++ {
		more, err := d.sendOne(q)
		if err != nil || !more {
			return err
		}
		if n%notifyEvery == 0 {
			q.Notify()
		}
	}
	return ctx.Err()
}

// sendOne sends the next packet. It returns false when there is none, or no receive buffer: the driver's next
// notification goes on then.
func (d *Device) sendOne(q *virtio.Queue) (more bool, err error) {
	d.mu.Lock()
	switch {
	case d.event && d.hasEvents:
		// The driver ends all streams at TRANSPORT_RESET, new ones too: they come after it.
		d.awake = false
	case len(d.replies) > 0:
		d.awake = true
		defer d.mu.Unlock()
		return d.sendReply(q)
	case len(d.ready) > 0:
		d.awake = true
		c := d.ready[0]
		d.mu.Unlock()
		return c.sendOne(q)
	default:
		d.awake = false
	}
	d.mu.Unlock()
	return false, nil
}

// sendReply sends the oldest reply. The caller holds d.mu.
func (d *Device) sendReply(q *virtio.Queue) (bool, error) {
	chain, err := q.Pop()
	if chain == nil {
		return false, err
	}
	var n uint32
	if chain.WritableLen() >= headerSize {
		n = d.replies[0].write(chain)
		d.replies = slices.Delete(d.replies, 0, 1)
	}
	if d.held && len(d.replies) <= maxReplies/2 && d.transport != nil {
		d.held = false
		d.transport.Kick(txQueue)
	}
	return true, q.Push(chain, n)
}

func (h *header) write(chain *virtio.Chain) uint32 {
	var raw [headerSize]byte
	h.put(&raw)
	return uint32(chain.Write(raw[:]))
}

// turn ends a connection's turn: it queues up again when it has more to send. The caller holds c.mu.
func (d *Device) turn(c *Conn, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.ready, c); i >= 0 {
		d.ready = slices.Delete(d.ready, i, i+1)
	}
	c.queued = more
	if more {
		d.ready = append(d.ready, c)
	}
}

// sendOne sends one packet of this connection.
func (c *Conn) sendOne(q *virtio.Queue) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wantsToSend() {
		c.d.turn(c, false)
		return true, nil
	}
	chain, err := q.Pop()
	if chain == nil {
		return false, err
	}
	n := c.fill(chain)
	c.d.turn(c, c.wantsToSend())
	return true, q.Push(chain, n)
}

// credit returns how many bytes the guest has room for (virtio 1.2 §5.10.6.3).
func (c *Conn) credit() int {
	used := c.txCnt - c.peerFwd
	if used >= c.peerAlloc {
		return 0
	}
	return int(c.peerAlloc - used)
}

func (c *Conn) canSendData() bool {
	return c.state == established && len(c.out) > 0 && c.ourShut&shutdownSend == 0 &&
		c.peerShut&shutdownReceive == 0 && c.credit() > 0
}

func (c *Conn) wantsToSend() bool { return c.due != 0 || c.canSendData() }

// fill puts the next packet into a receive buffer of the guest's, and returns its length.
func (c *Conn) fill(chain *virtio.Chain) uint32 {
	h := header{
		srcCID: HostCID, dstCID: uint64(c.cid), srcPort: c.ports.host, dstPort: c.ports.guest, kind: typeStream,
		bufAlloc: bufAlloc, fwdCnt: c.fwdCnt,
	}
	room := int(min(chain.WritableLen(), headerSize+maxPayload)) - headerSize
	if room < 0 || !c.choose(&h, room) {
		c.d.complain("a receive buffer that is too small", &header{length: uint32(chain.WritableLen())})
		return 0
	}
	c.toldFwd = c.fwdCnt
	c.due &^= dueCredit
	n := h.write(chain)
	if h.op == opRW {
		n += uint32(virtio.CopyTo(virtio.Skip(chain.Writable(), headerSize), c.out[:h.length]))
		c.sent(int(h.length))
	}
	return n
}

// choose decides what to send into room bytes after the header. The order is the stream's: the answer, the data, the
// end.
func (c *Conn) choose(h *header, room int) bool {
	done := func(what due, op uint16) bool {
		c.due &^= what
		h.op = op
		return true
	}
	switch {
	case c.due&dueRst != 0:
		c.d.forget(c)
		return done(dueRst, opRst)
	case c.due&dueRequest != 0:
		c.asked = true
		return done(dueRequest, opRequest)
	case c.due&dueResponse != 0:
		return done(dueResponse, opResponse)
	case c.canSendData() && room > 0:
		h.length = uint32(min(len(c.out), c.credit(), room))
		return done(0, opRW)
	case c.due&dueShutdown != 0:
		h.flags = c.ourShut
		return done(dueShutdown, opShutdown)
	case c.due&dueCredit != 0:
		return done(dueCredit, opCreditUpdate)
	case c.due&dueCreditRequest != 0:
		return done(dueCreditRequest, opCreditRequest)
	}
	return false
}

// sent counts n bytes of the current Write as sent.
func (c *Conn) sent(n int) {
	c.txCnt += uint32(n)
	c.out = c.out[n:]
	switch {
	case len(c.out) == 0:
		c.writeCond.Broadcast()
	case c.credit() == 0:
		c.due |= dueCreditRequest
	}
}
