package virtiotest

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// Descriptor is one entry of a descriptor table as it lies in memory (virtio 1.2 §2.7.5).
type Descriptor struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Descriptor flags.
const (
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

// Queue is the driver's side of a split virtqueue.
type Queue struct {
	virtio.QueueConfig
	Index int

	d           *Driver
	avail, used guestmem.Ring
	freeDesc    []uint16
	requests    map[uint16]*Request // by head
	availIdx    uint16
	usedIdx     uint16
	kicked      uint16 // availIdx at the last kick
}

// Request is a descriptor chain that the driver made available.
type Request struct {
	Head    uint16
	Written uint32 // what the used ring says; valid once Done
	Done    bool

	q        *Queue
	descs    []uint16
	buffers  []buffer
	indirect buffer
	writable []buffer
	result   []byte
}

type buffer struct {
	addr uint64
	n    int
}

func newQueue(d *Driver, index int, size uint16) *Queue {
	d.T.Helper()
	q := &Queue{Index: index, d: d, requests: map[uint16]*Request{}}
	q.Size = size
	q.DescTable = guestmem.Addr(d.alloc(16 * int(size)).addr)
	q.AvailRing = guestmem.Addr(d.alloc(6 + 2*int(size)).addr)
	q.UsedRing = guestmem.Addr(d.alloc(6 + 8*int(size)).addr)
	clear(d.bytes(buffer{uint64(q.AvailRing), 6 + 2*int(size)}))
	clear(d.bytes(buffer{uint64(q.UsedRing), 6 + 8*int(size)}))
	q.avail = d.ring(q.AvailRing, 6+2*uint32(size))
	q.used = d.ring(q.UsedRing, 6+8*uint32(size))
	for i := range size {
		q.freeDesc = append(q.freeDesc, size-1-i)
	}
	return q
}

func (d *Driver) ring(a guestmem.Addr, n uint32) guestmem.Ring {
	r, err := d.Mem.Ring(a, n)
	if err != nil {
		d.T.Fatalf("ring: %v", err)
	}
	return r
}

func (d *Driver) alloc(n int) buffer {
	d.T.Helper()
	a, ok := d.heap.alloc(uint64(n))
	if !ok {
		d.T.Fatalf("the driver is out of memory for %d bytes: raise Options.RAM", n)
	}
	return buffer{a, n}
}

func (d *Driver) release(b buffer) { d.heap.release(b.addr, uint64(b.n)) }

func (d *Driver) bytes(b buffer) []byte {
	off := b.addr - uint64(RAMBase)
	return d.RAM[off : off+uint64(b.n)]
}

// Queue returns queue i.
func (d *Driver) Queue(i int) *Queue { return d.Queues[i] }

// Add makes a chain available: a device-readable buffer for each of readable, then device-writable ones of the given
// sizes. It does not kick.
func (q *Queue) Add(readable [][]byte, writable ...int) *Request {
	q.d.T.Helper()
	r := &Request{q: q}
	var descs []Descriptor
	for _, p := range readable {
		b := q.d.alloc(len(p))
		copy(q.d.bytes(b), p)
		r.buffers = append(r.buffers, b)
		descs = append(descs, Descriptor{Addr: b.addr, Len: uint32(b.n), Flags: DescNext})
	}
	for _, n := range writable {
		b := q.d.alloc(n)
		r.buffers = append(r.buffers, b)
		r.writable = append(r.writable, b)
		descs = append(descs, Descriptor{Addr: b.addr, Len: uint32(b.n), Flags: DescNext | DescWrite})
	}
	descs[len(descs)-1].Flags &^= DescNext
	if q.d.Features&virtio.FeatureIndirectDesc != 0 && !q.d.opts.Direct && len(descs) > 1 {
		r.indirect = q.d.alloc(16 * len(descs))
		for i := range descs {
			descs[i].Next = uint16(i + 1)
			descs[i].put(q.d.bytes(r.indirect)[16*i:])
		}
		descs = []Descriptor{{Addr: r.indirect.addr, Len: uint32(r.indirect.n), Flags: DescIndirect}}
	}
	q.addDirect(r, descs)
	return r
}

// addDirect puts descs into the table and the head into the available ring.
func (q *Queue) addDirect(r *Request, descs []Descriptor) {
	q.d.T.Helper()
	if len(descs) > len(q.freeDesc) {
		q.d.T.Fatalf("queue %d has %d descriptors left, the request needs %d", q.Index, len(q.freeDesc), len(descs))
	}
	n := len(q.freeDesc) - len(descs)
	r.descs = append(r.descs, q.freeDesc[n:]...)
	q.freeDesc = q.freeDesc[:n]
	for i := range descs {
		if i+1 < len(descs) {
			descs[i].Next = r.descs[i+1]
		}
		q.SetDescriptor(r.descs[i], descs[i])
	}
	r.Head = r.descs[0]
	q.requests[r.Head] = r
	q.Publish(r.Head)
}

func (d Descriptor) put(p []byte) {
	binary.LittleEndian.PutUint64(p, d.Addr)
	binary.LittleEndian.PutUint32(p[8:], d.Len)
	binary.LittleEndian.PutUint16(p[12:], d.Flags)
	binary.LittleEndian.PutUint16(p[14:], d.Next)
}

// SetDescriptor writes entry i of the descriptor table, whatever it says.
func (q *Queue) SetDescriptor(i uint16, d Descriptor) {
	d.put(q.d.bytes(buffer{uint64(q.DescTable) + 16*uint64(i), 16}))
}

// Publish puts head into the available ring and advances its index, whatever the head is.
func (q *Queue) Publish(head uint16) {
	q.avail.Store16(4+2*uint32(q.availIdx&(q.Size-1)), head)
	q.SetAvailIdx(q.availIdx + 1)
}

// SetAvailIdx sets the available ring's index, whatever it says.
func (q *Queue) SetAvailIdx(v uint16) {
	q.availIdx = v
	q.avail.Store16(2, v)
}

// SuppressInterrupts sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT, which the device ignores with EVENT_IDX.
func (q *Queue) SuppressInterrupts(on bool) {
	var v uint16
	if on {
		v = 1
	}
	q.avail.Store16(0, v)
}

// SetUsedEvent asks for an interrupt when the used index passes v, with EVENT_IDX (virtio 1.2 §2.7.7.1).
func (q *Queue) SetUsedEvent(v uint16) { q.avail.Store16(4+2*uint32(q.Size), v) }

// AvailEvent returns the available index for which the device wants a kick.
func (q *Queue) AvailEvent() uint16 { return q.used.Load16(4 + 8*uint32(q.Size)) }

// UsedIdx returns the used ring's index.
func (q *Queue) UsedIdx() uint16 { return q.used.Load16(2) }

// NeedsKick says whether the device wants to be told of what was added since the last kick.
func (q *Queue) NeedsKick() bool {
	if q.d.Features&virtio.FeatureEventIdx == 0 {
		return q.used.Load16(0)&1 == 0
	}
	return q.availIdx-q.AvailEvent()-1 < q.availIdx-q.kicked
}

// Kick notifies the device, unless it does not want to be. Without workers the device serves the queue before Kick
// returns.
func (q *Queue) Kick() {
	need := q.NeedsKick()
	q.kicked = q.availIdx
	if need || q.d.opts.Manual {
		q.ForceKick()
	}
}

// ForceKick notifies the device.
func (q *Queue) ForceKick() {
	if q.d.opts.Manual {
		q.d.serveFrom(q.Index)
		return
	}
	q.d.Write32(virtio.RegQueueNotify, uint32(q.Index))
}

// serveFrom serves queue i, then the others: the device may have asked its transport to be called for them.
func (d *Driver) serveFrom(i int) {
	d.T.Helper()
	for k := range d.MMIO.Queues() {
		if err := d.MMIO.Serve(context.Background(), (i+k)%d.MMIO.Queues()); err != nil {
			d.T.Fatalf("Serve: %v", err)
		}
	}
}

// Reap takes what the device used, in the order of the used ring, and checks it.
func (q *Queue) Reap() []*Request {
	q.d.T.Helper()
	var out []*Request
	for {
		idx := q.UsedIdx()
		if idx == q.usedIdx {
			// Ask for an interrupt of the next one, then look again.
			q.SetUsedEvent(q.usedIdx)
			if q.UsedIdx() == q.usedIdx {
				return out
			}
			continue
		}
		slot := 4 + 8*uint32(q.usedIdx&(q.Size-1))
		head, written := q.used.Load32(slot), q.used.Load32(slot+4)
		q.usedIdx++
		r := q.requests[uint16(head)]
		if r == nil || head > 0xffff {
			q.d.T.Fatalf("queue %d: the device used chain %d, which it does not have", q.Index, head)
		}
		r.finish(written)
		out = append(out, r)
	}
}

func (r *Request) finish(written uint32) {
	q := r.q
	r.Done, r.Written = true, written
	total := 0
	for _, b := range r.writable {
		r.result = append(r.result, q.d.bytes(b)...)
		total += b.n
	}
	if int64(written) > int64(total) {
		q.d.T.Errorf("queue %d: used length %d of %d writable bytes", q.Index, written, total)
	}
	delete(q.requests, r.Head)
	q.freeDesc = append(q.freeDesc, r.descs...)
	for _, b := range r.buffers {
		q.d.release(b)
	}
	if r.indirect.n > 0 {
		q.d.release(r.indirect)
	}
}

// Room returns the content of all device-writable buffers of a request that is done, in order.
func (r *Request) Room() []byte { return r.result }

// Bytes returns the bytes that the device says it wrote.
func (r *Request) Bytes() []byte { return r.result[:min(int(r.Written), len(r.result))] }

// Wait waits until r is done, taking interrupts, as a driver sleeps for one. A request that is done without an
// interrupt makes it fail.
func (q *Queue) Wait(r *Request) {
	q.d.T.Helper()
	deadline := time.After(Timeout)
	for !r.Done {
		q.Reap()
		if !r.Done && !q.d.waitInterrupt(deadline) {
			q.d.T.Fatalf("queue %d: no interrupt for the request (status %#x)", q.Index, q.d.Status())
		}
	}
}

// Do adds a chain, kicks, waits for it and returns it.
func (q *Queue) Do(readable [][]byte, writable ...int) *Request {
	q.d.T.Helper()
	r := q.Add(readable, writable...)
	q.Kick()
	q.Wait(r)
	return r
}

// InFlight returns the number of chains that the driver made available and has not reaped.
func (q *Queue) InFlight() int { return len(q.requests) }
