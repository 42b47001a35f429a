package net

import (
	"context"
	"errors"

	"github.com/govmm/govmm/virtio"
)

// sender is the state of one transmit queue's goroutine.
type sender struct {
	q     *virtio.Queue
	idle  func()
	count counters
}

// transmit sends what the driver has made available. It is told of a batch at the batch's end, as the transport notifies it
// when Serve returns, and on the way, so that it does not run out of descriptors.
func (d *Device) transmit(ctx context.Context, pair int, q *virtio.Queue) error {
	s := &d.senders[pair]
	if s.q != q {
		s.q, s.idle = q, q.Notify
	}
	for n := 1; ctx.Err() == nil; n++ {
		if err := d.cfg.LimitTX.Wait(ctx, s.idle); err != nil {
			return err
		}
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.send(ctx, pair, s, c)
		if err := q.Push(c, 0); err != nil {
			return err
		}
		if n%notifyEvery == 0 {
			q.Notify()
		}
	}
	return ctx.Err()
}

// send hands one frame to the link. What is no frame is dropped.
func (d *Device) send(ctx context.Context, pair int, s *sender, c *virtio.Chain) {
	n := c.ReadableLen()
	d.cfg.LimitTX.Charge(int(max(min(n, MaxFrame), HeaderSize) - HeaderSize)) // what is dropped costs time, too
	if n < minRoom || n > MaxFrame || d.linkDown.Load() {
		s.count.drops.Add(1)
		return
	}
	if err := d.link.Send(ctx, pair, c.Readable()); err != nil {
		s.count.drops.Add(1)
		if !errors.Is(err, ErrBadFrame) && ctx.Err() == nil {
			d.complain("a frame of the guest was lost", err)
		}
		return
	}
	d.passed(&s.count, int(n))
}

// reset forgets the queue.
func (s *sender) reset() { s.q, s.idle = nil, nil }
