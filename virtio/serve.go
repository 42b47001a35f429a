package virtio

import (
	"context"
	"errors"
	"fmt"

	"github.com/govmm/govmm/guestmem"
)

// ServeQueue serves virtqueue i until ctx is done: whenever kick says so it calls the device's Serve. It begins with a
// look at the queue, so that stopping it and starting another (around a snapshot) loses nothing. It returns nil when
// ctx ended it and kick's error when that failed. The caller owns kick, and closes it afterwards.
func (m *MMIO) ServeQueue(ctx context.Context, i int, kick Kick) error {
	s, err := m.slot(i)
	if err != nil {
		return err
	}
	if !s.kick.CompareAndSwap(nil, &kick) {
		return fmt.Errorf("virtio: queue %d of %s is being served already", i, m.cfg.Name)
	}
	defer s.kick.Store(nil)
	stop := context.AfterFunc(ctx, kick.Poke)
	defer stop()
	for ctx.Err() == nil {
		q, err := m.serve(ctx, s, i)
		if err != nil {
			return err
		}
		var pending func() bool
		if q != nil && !q.Pending() { // all was taken: what comes now is to be seen in the ring
			pending = q.pending
		}
		if err := kick.Wait(pending); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("virtio: queue %d of %s: %w", i, m.cfg.Name, err)
		}
	}
	return nil
}

func (m *MMIO) slot(i int) (*slot, error) {
	a := m.attached.Load()
	if a == nil || i < 0 || i >= len(a.slots) {
		return nil, fmt.Errorf("virtio: %s has no queue %d", m.cfg.Name, i)
	}
	return a.slots[i], nil
}

// Serve lets the device serve queue i once, in this goroutine, if the driver has set it up: the step of ServeQueue. The
// error is about the arguments or a guestmem.FaultError; what the driver or the device does wrong goes to the driver and
// the log.
func (m *MMIO) Serve(ctx context.Context, i int) error {
	s, err := m.slot(i)
	if err != nil {
		return err
	}
	_, err = m.serve(ctx, s, i)
	return err
}

// serve returns the queue that it has served, nil if there is none.
func (m *MMIO) serve(ctx context.Context, s *slot, i int) (*Queue, error) {
	s.run.Lock()
	defer s.run.Unlock()
	ctx, q := m.beginServe(ctx, s)
	if q == nil {
		return nil, nil
	}
	err := m.attached.Load().dev.Serve(ctx, i, q)
	q.Notify()
	if err != nil { // so that what follows is not allocated for every notification
		if fault := (*guestmem.FaultError)(nil); errors.As(err, &fault) {
			return q, err
		}
		if ctx.Err() == nil {
			m.fail(err, i)
		}
	}
	return q, nil
}

// beginServe returns the queue and a context that a reset cancels too, or nil. The context is kept from call to call:
// making one costs more than a small request.
func (m *MMIO) beginServe(parent context.Context, s *slot) (context.Context, *Queue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live || !s.ready {
		return nil, nil
	}
	if s.parent != parent || s.ctx.Err() != nil {
		if s.cancel != nil {
			s.cancel()
		}
		s.parent = parent
		s.ctx, s.cancel = context.WithCancel(parent)
	}
	return s.ctx, s.queue
}
