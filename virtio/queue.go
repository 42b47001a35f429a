package virtio

import (
	"errors"
	"fmt"
	"sync"

	"github.com/govmm/govmm/guestmem"
)

// ErrMalformed reports that the driver broke a rule of the virtqueue. The device needs a reset; the VM lives.
var ErrMalformed = errors.New("malformed by the driver")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// errNotOut is a fault of ours: a chain pushed twice, or into a queue that it does not come from.
var errNotOut = errors.New("virtio: pushing a chain that this queue has not handed out")

// errNotLast is one, too.
var errNotLast = errors.New("virtio: taking back a chain that is not the latest of this queue")

// QueueConfig is what the driver sets up for one virtqueue through the transport.
type QueueConfig struct {
	Size      uint16        // descriptors; a power of two
	DescTable guestmem.Addr // 16-byte aligned
	AvailRing guestmem.Addr // 2-byte aligned; the driver area
	UsedRing  guestmem.Addr // 4-byte aligned; the device area
}

// Queue is the device's side of one split virtqueue (virtio 1.2 §2.7). Pop and Push may be called from different
// goroutines; each of them is serialised by the queue's own lock.
type Queue struct {
	mem      *guestmem.Memory
	cfg      QueueConfig
	maxSize  uint16
	features uint64
	notify   func()
	pending  func() bool // Pending, kept so that none is made for each notification

	desc  []byte
	avail guestmem.Ring
	// availShift is 2 when the available ring is only 2-byte aligned: Ring wants whole words.
	availShift uint32
	used       guestmem.Ring

	mu        sync.Mutex
	stopped   bool
	nextAvail uint16 // index of the next available entry to take
	nextUsed  uint16 // index of the next used entry to write
	signalled uint16 // nextUsed at the last Notify decision
	free      []*Chain
}

// Byte offsets in the rings (virtio 1.2 §2.7.6, §2.7.8).
const (
	ringFlags = 0
	ringIdx   = 2
	ringStart = 4

	descSize     = 16
	usedElemSize = 8

	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
)

// NewQueue checks cfg (virtio 1.2 §2.7: size, alignment, areas inside RAM) and returns a queue that is ready to be
// served. notify is called for every used-buffer notification that the driver did not suppress.
func NewQueue(mem *guestmem.Memory, cfg QueueConfig, maxSize uint16, features uint64, notify func()) (*Queue, error) {
	q := &Queue{mem: mem, cfg: cfg, maxSize: maxSize, features: features, notify: notify}
	q.pending = q.Pending
	if err := q.mapRings(); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Queue) mapRings() error {
	c, n := q.cfg, uint32(q.cfg.Size)
	switch {
	case n == 0 || n&(n-1) != 0 || c.Size > q.maxSize:
		return malformed("queue size %d is not a power of two up to %d", n, q.maxSize)
	case c.DescTable%16 != 0 || c.AvailRing%2 != 0 || c.UsedRing%4 != 0:
		return malformed("queue areas %#x, %#x, %#x are not aligned", c.DescTable, c.AvailRing, c.UsedRing)
	}
	var err error
	if q.desc, err = q.mem.Slice(c.DescTable, n*descSize); err != nil {
		return malformed("descriptor table: %v", err)
	}
	q.availShift = uint32(c.AvailRing & 2)
	if q.avail, err = q.mem.Ring(c.AvailRing-guestmem.Addr(q.availShift), ringStart+2*n+2+q.availShift); err != nil {
		return malformed("available ring: %v", err)
	}
	if q.used, err = q.mem.Ring(c.UsedRing, ringStart+usedElemSize*n+2); err != nil {
		return malformed("used ring: %v", err)
	}
	return nil
}

// Size returns the queue's size in descriptors.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Guard runs f in a goroutine of the device's own, as guestmem.Memory.Guard does. The goroutine that calls Serve has one
// already.
func (q *Queue) Guard(f func() error) error { return q.mem.Guard(f) }

// Features returns the negotiated feature bits.
func (q *Queue) Features() uint64 { return q.features }

func (q *Queue) eventIdx() bool { return q.features&FeatureEventIdx != 0 }

func (q *Queue) avail16(off uint32) uint16 { return q.avail.Load16(off + q.availShift) }

// Pop takes the next available descriptor chain. It returns nil, nil when there is none, having asked the driver for a
// notification of the next one, and ErrMalformed when the driver lied. A chain that was popped must be pushed, or the
// driver waits for it for ever. The chain belongs to the caller until it pushes it.
func (q *Queue) Pop() (*Chain, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return nil, nil
	}
	pending := q.avail16(ringIdx) - q.nextAvail
	if pending == 0 {
		if pending = q.askForKick(); pending == 0 {
			return nil, nil
		}
	}
	// A driver has at most Size descriptors, so what it made available and has not got back is at most as much.
	if out := q.nextAvail - q.nextUsed; uint32(pending)+uint32(out) > uint32(q.cfg.Size) {
		return nil, malformed("available index is %d entries ahead, with %d in flight, in a queue of %d", pending, out,
			q.cfg.Size)
	}
	slot := uint32(q.nextAvail & (q.cfg.Size - 1))
	c := q.newChain(q.avail16(ringStart+2*slot), q.nextAvail)
	if err := q.walk(c); err != nil {
		q.recycle(c)
		return nil, err
	}
	q.nextAvail++
	return c, nil
}

// askForKick publishes avail_event and looks at the index once more: a driver that added a buffer before it saw the
// event will not kick (virtio 1.2 §2.7.10). Store16 is the full fence between the two. Without EVENT_IDX the flags
// always ask for kicks, so there is nothing to publish.
func (q *Queue) askForKick() uint16 {
	if !q.eventIdx() {
		return 0
	}
	q.used.Store16(ringStart+usedElemSize*uint32(q.cfg.Size), q.nextAvail)
	return q.avail16(ringIdx) - q.nextAvail
}

// Pending says whether the driver has made something available that was not popped; on a queue that was stopped, too.
func (q *Queue) Pending() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stopped || q.avail16(ringIdx) != q.nextAvail
}

// Unpop takes back the latest Pop: the chain is available again, as if nobody had looked at it. Of several chains the last
// is given back first. The caller must not use the chain or its buffers afterwards. On a queue that was reset meanwhile it
// does nothing.
func (q *Queue) Unpop(c *Chain) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.queue != q || c.taken != q.nextAvail-1 {
		return errNotLast
	}
	q.nextAvail--
	q.recycle(c)
	return nil
}

// Push gives a chain back to the driver; written is the number of bytes that were written to its device-writable part,
// from its start. The caller must not use the chain or its buffers afterwards. It does not notify: call Notify when
// the batch is done. A push to a queue that was reset meanwhile does nothing.
func (q *Queue) Push(c *Chain, written uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.use(c, uint64(written)); err != nil {
		return err
	}
	q.publish()
	return nil
}

// PushAll is Push for several chains that belong together: the driver sees all of them or none. The written bytes fill
// each chain but the last.
func (q *Queue) PushAll(chains []*Chain, written uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.publish()
	for i, c := range chains {
		n := written
		if i < len(chains)-1 {
			n = min(n, c.WritableLen())
		}
		if err := q.use(c, n); err != nil {
			return err
		}
		written -= n
	}
	return nil
}

// use writes the next entry of the used ring and takes c back. The caller holds q.mu, and publishes.
func (q *Queue) use(c *Chain, written uint64) error {
	if c.queue != q {
		return errNotOut
	}
	if written > c.WritableLen() {
		return fmt.Errorf("virtio: pushing %d bytes into a chain with room for %d", written, c.WritableLen())
	}
	if !q.stopped {
		slot := ringStart + usedElemSize*uint32(q.nextUsed&(q.cfg.Size-1))
		q.used.Put32(slot, uint32(c.head))
		q.used.Put32(slot+4, uint32(written))
		q.nextUsed++
	}
	q.recycle(c)
	return nil
}

// publish shows the driver what use has written. The caller holds q.mu.
func (q *Queue) publish() {
	if !q.stopped {
		// flags (0: always kick us) and idx share this word.
		q.used.Store32(ringFlags, uint32(q.nextUsed)<<16)
	}
}

// Notify sends a used-buffer notification unless the driver suppressed it (virtio 1.2 §2.7.7) or nothing was pushed
// since the last one.
func (q *Queue) Notify() {
	if q.notifyDue() {
		q.notify()
	}
}

// notifyDue relies on the full fence in Push between used.idx and what it loads.
func (q *Queue) notifyDue() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped || q.nextUsed == q.signalled {
		return false
	}
	old := q.signalled
	q.signalled = q.nextUsed
	if !q.eventIdx() {
		return q.avail16(ringFlags)&availNoInterrupt == 0
	}
	event := q.avail16(ringStart + 2*uint32(q.cfg.Size))
	return q.nextUsed-event-1 < q.nextUsed-old
}

// InFlight returns the number of chains that were popped and not pushed yet.
func (q *Queue) InFlight() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(q.nextAvail - q.nextUsed)
}

// stop detaches the queue from guest memory's rings: from now on Pop finds nothing, Push and Notify do nothing.
func (q *Queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
}
