package virtio_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// TestNoLostKickOnQueue is TestNoLostKick without transport and goroutines that sleep: both sides spin, so that the
// driver's look at avail_event falls into the few instructions around the device's publication of it much more often.
func TestNoLostKickOnQueue(t *testing.T) {
	r := newRings(t, virtio.FeatureEventIdx|virtio.FeatureIndirectDesc)
	r.table(descAt, desc{bufferAt, 1, 0, 0})
	avail, err := r.mem.Ring(availAt, 6+2*ringSize)
	if err != nil {
		t.Fatal(err)
	}
	used, err := r.mem.Ring(usedAt, 6+8*ringSize)
	if err != nil {
		t.Fatal(err)
	}
	var kicks, stop atomic.Uint32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seen := uint32(0); stop.Load() == 0; {
			c, err := r.q.Pop()
			switch {
			case err != nil:
				t.Error(err)
				return
			case c != nil:
				if err := r.q.Push(c, 0); err != nil {
					t.Error(err)
				}
				continue
			}
			for kicks.Load() == seen && stop.Load() == 0 { // asleep until the next kick
				runtime.Gosched()
			}
			seen = kicks.Load()
		}
	}()
	for i := range uint16(60_000) {
		avail.Store16(2, i+1) // a full fence
		if used.Load16(4+8*ringSize) == i {
			kicks.Add(1)
		}
		start := time.Now()
		for spin := 1; used.Load16(2) != i+1; spin++ {
			if spin%1000 != 0 {
				continue
			}
			runtime.Gosched()
			if time.Since(start) > virtiotest.Timeout {
				stop.Store(1)
				t.Fatalf("buffer %d: the device sleeps, and the driver does not know (avail_event %d)", i, used.Load16(4+8*ringSize))
			}
		}
	}
	stop.Store(1)
	<-done
}

// TestNoLostInterrupt is its counterpart: the driver asks for an interrupt, looks at the used index once more and
// sleeps, while the device publishes the index and looks whether the driver wants an interrupt.
func TestNoLostInterrupt(t *testing.T) {
	r := newRings(t, virtio.FeatureEventIdx)
	r.table(descAt, desc{bufferAt, 1, 0, 0})
	avail, err := r.mem.Ring(availAt, 6+2*ringSize)
	if err != nil {
		t.Fatal(err)
	}
	used, err := r.mem.Ring(usedAt, 6+8*ringSize)
	if err != nil {
		t.Fatal(err)
	}
	var interrupts, stop atomic.Uint32
	cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
	q, err := virtio.NewQueue(r.mem, cfg, ringSize, r.q.Features(), func() { interrupts.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for spin := 1; stop.Load() == 0; spin++ {
			switch c, err := q.Pop(); {
			case err != nil:
				t.Error(err)
				return
			case c != nil:
				if err := q.Push(c, 0); err != nil {
					t.Error(err)
				}
				q.Notify()
			case spin%100 == 0:
				runtime.Gosched()
			}
		}
	}()
	for i := range uint16(60_000) {
		before := interrupts.Load()
		avail.Store16(2, i+1)
		for range i % 64 { // so that the device is somewhere else each time
			used.Load32(0)
		}
		avail.Store16(4+2*ringSize, i) // used_event: a full fence
		if used.Load16(2) == i+1 {
			continue
		}
		start := time.Now()
		for spin := 1; interrupts.Load() == before; spin++ { // asleep
			if spin%1000 != 0 {
				continue
			}
			runtime.Gosched()
			if time.Since(start) > virtiotest.Timeout {
				stop.Store(1)
				t.Fatalf("buffer %d: no interrupt (used index %d)", i, used.Load16(2))
			}
		}
	}
	stop.Store(1)
	<-done
}

// TestNoLostEvent: the driver acknowledges the interrupt, looks for what it tells of and sleeps, while the device, which has something new,
// looks whether the last interrupt has been acknowledged.
func TestNoLostEvent(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{Manual: true})
	var events, seen, stop atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := int64(1); stop.Load() == 0; i++ {
			events.Store(i)
			e.transport.ConfigChanged()
			for range i % 64 { // so that the driver is somewhere else each time
				seen.Load()
			}
			if i%2 == 0 { // two events: the second may find the first one's interrupt pending, acknowledged or neither
				for spin := 1; seen.Load() < i && stop.Load() == 0; spin++ {
					if spin%1000 == 0 {
						runtime.Gosched()
					}
				}
			}
		}
	}()
	var handled int64
	for seen.Load() < 40_000 {
		start := time.Now()
		for spin := 1; d.Interrupts() == handled; spin++ { // asleep
			if spin%1000 != 0 {
				continue
			}
			runtime.Gosched()
			if time.Since(start) > virtiotest.Timeout {
				stop.Store(1)
				t.Fatalf("event %d was not told of, %d was the last seen", events.Load(), seen.Load())
			}
		}
		handled = d.Interrupts()
		d.Ack()
		seen.Store(events.Load())
	}
	stop.Store(1)
	<-done
}
