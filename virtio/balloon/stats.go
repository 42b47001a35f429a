package balloon

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/govmm/govmm/virtio"
)

// Stats is what the guest says of its memory (virtio 1.2 §5.5.6.3), in bytes but for the faults. A hostile guest says
// anything.
type Stats struct {
	Total, Free uint64
	Available   uint64 // for new programs, without swapping
	Caches      uint64 // of files
	MajorFaults uint64
}

// Tags of the statistics.
const (
	tagMajorFaults = 2
	tagFree        = 4
	tagTotal       = 5
	tagAvailable   = 6
	tagCaches      = 7
)

// ErrNoStats says that the guest has no driver that tells.
var ErrNoStats = errors.New("balloon: the guest gives no statistics")

// statsRounds is how often the buffer goes to the driver for one answer: what lies in the queue is old, and the answer is
// not kept, so that no chain is in flight when nobody asks.
const statsRounds = 2

// Stats asks the guest how its memory is used. A guest may let it wait for ever: bound ctx.
func (d *Device) Stats(ctx context.Context) (Stats, error) {
	d.mu.Lock()
	if !d.active || d.features&FeatureStats == 0 {
		d.mu.Unlock()
		return Stats{}, ErrNoStats
	}
	if d.fresh == nil {
		d.fresh, d.rounds = make(chan struct{}), statsRounds
	}
	fresh := d.fresh
	d.mu.Unlock()
	d.transport.Kick(statsQueue)
	select {
	case <-fresh:
	case <-ctx.Done():
		return Stats{}, context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.active {
		return Stats{}, ErrNoStats
	}
	return d.stats, nil
}

// endStats wakes whoever waits for statistics. The caller holds d.mu.
func (d *Device) endStats() {
	d.rounds = 0
	if d.fresh != nil {
		close(d.fresh)
		d.fresh = nil
	}
}

// serveStats sends the buffer back to be filled anew, until the values are as fresh as Stats wants them.
func (d *Device) serveStats(ctx context.Context, q *virtio.Queue) error {
	for ctx.Err() == nil && d.statsWanted() {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.takeStats(c)
		if err := q.Push(c, 0); err != nil {
			return err
		}
		q.Notify()
	}
	return ctx.Err()
}

func (d *Device) statsWanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rounds > 0
}

func (d *Device) takeStats(c *virtio.Chain) {
	var p [maxStats * statSize]byte
	s := parseStats(p[:c.ReadHeader(p[:])])
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rounds--; d.rounds == 0 {
		d.stats = s
		d.endStats()
	}
}

func parseStats(p []byte) (s Stats) {
	for ; len(p) >= statSize; p = p[statSize:] {
		v := binary.LittleEndian.Uint64(p[2:])
		switch binary.LittleEndian.Uint16(p) {
		case tagMajorFaults:
			s.MajorFaults = v
		case tagFree:
			s.Free = v
		case tagTotal:
			s.Total = v
		case tagAvailable:
			s.Available = v
		case tagCaches:
			s.Caches = v
		}
	}
	return s
}
