package virtiotest

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// FuzzOptions adjusts FuzzDevice to a device.
type FuzzOptions struct {
	// Requests are device-readable parts of good requests, for the seeds: at most 765 bytes each.
	Requests [][]byte
	// Host lets the host side act on dev as p says: input arrives, a connection is closed. May be nil.
	Host func(dev virtio.Device, p []byte)
	// Settle returns when dev does not touch guest memory on its own account any more. nil when it never does.
	Settle func(dev virtio.Device)
	// Keeps is how many bytes of dev's state, at its end, a reset leaves as they are.
	Keeps int
	// Check looks at dev after each notification: is what it holds bounded? May be nil.
	Check func(t testing.TB, dev virtio.Device)

	timeout time.Duration // of one call of Serve; 0: fuzzTimeout
	hung    func()        // called when it is over; nil: panic
}

const (
	fuzzRAM       = 64 << 10
	fuzzQueueSize = 8
	fuzzBuffers   = fuzzRAM / 2 // where the buffers of good chains begin
	fuzzMaxOps    = 256
	maxReadable   = 255 // bytes of a readable buffer of a good chain
	// fuzzTimeout bounds one call of Serve: far more than any takes, and less than the fuzzing engine's patience.
	fuzzTimeout = 8 * time.Second
)

// FuzzDevice fuzzes a device with sequences of a driver's operations, good and hostile: register and configuration
// accesses, set-up, chains, notifications, resets, snapshots. It checks that nothing panics or runs on for ever, that
// no byte changes outside the used rings and device-writable buffers, that no more chains come back than were made
// available, and that a reset returns to the initial state, from which the device can be set up again.
func FuzzDevice(f *testing.F, newDevice func(t testing.TB) virtio.Device, opts FuzzOptions) {
	for _, seed := range fuzzSeeds(opts.Requests) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzzOnce(t, newDevice, opts, data) })
}

// fuzzOnce carries out the operations that data stands for.
func fuzzOnce(t testing.TB, newDevice func(t testing.TB) virtio.Device, opts FuzzOptions, data []byte) {
	z := newFuzzer(t, newDevice, opts)
	z.in = data
	for n := 0; len(z.in) > 0 && n < fuzzMaxOps; n++ {
		z.step()
	}
	z.reset()
	z.setUp(0)
	if got := z.d.Status(); got&virtio.StatusDriverOK == 0 || got&virtio.StatusNeedsReset != 0 {
		t.Errorf("status %#x when set up again after a reset", got)
	}
}

// Operations; each is one byte of input followed by its arguments. The values are part of the corpus' format.
const (
	opSetUp = iota
	opGoodChain
	opRawDescriptor
	opPublish
	opAvailIdx
	opKick
	opWriteRegister
	opReadRegister
	opWriteConfig
	opPoke
	opReset
	opSnapshot
	opHost
	opIndirectChain
	opCount
)

type fuzzer struct {
	t    testing.TB
	d    *Driver
	dev  virtio.Device
	make func(t testing.TB) virtio.Device
	opts FuzzOptions
	in   []byte

	initial []byte
	hosted  bool
	sel     uint32
	queues  []fuzzQueue
	bump    int
}

// fuzzQueue is the harness's own idea of a queue: it sees every register write.
type fuzzQueue struct {
	virtio.QueueConfig
	avail uint16
	desc  uint16
}

func newFuzzer(t testing.TB, newDevice func(t testing.TB) virtio.Device, opts FuzzOptions) *fuzzer {
	z := &fuzzer{t: t, make: newDevice, opts: opts, dev: newDevice(t)}
	z.d = New(t, z.dev, Options{Manual: true, Uninitialised: true, RAM: fuzzRAM})
	z.queues = make([]fuzzQueue, z.d.MMIO.Queues())
	z.initial = z.state()
	return z
}

func (z *fuzzer) state() []byte {
	p, err := z.d.MMIO.MarshalBinary()
	if err != nil {
		z.t.Fatalf("state: %v", err)
	}
	return p
}

func (z *fuzzer) byte() byte {
	if len(z.in) == 0 {
		return 0
	}
	b := z.in[0]
	z.in = z.in[1:]
	return b
}

func (z *fuzzer) bytes(n int) []byte {
	p := make([]byte, n)
	z.in = z.in[copy(p, z.in):]
	return p
}

func (z *fuzzer) word() uint32 { return binary.LittleEndian.Uint32(z.bytes(4)) }

func (z *fuzzer) queue() (int, *fuzzQueue) {
	if len(z.queues) == 0 {
		return 0, &fuzzQueue{QueueConfig: virtio.QueueConfig{Size: 1}}
	}
	i := int(z.byte()) % len(z.queues)
	return i, &z.queues[i]
}

func (z *fuzzer) step() {
	switch z.byte() % opCount {
	case opSetUp:
		z.reset()
		z.setUp(z.byte())
	case opGoodChain:
		_, q := z.queue()
		z.goodChain(q)
	case opIndirectChain:
		_, q := z.queue()
		z.indirectChain(q)
	case opRawDescriptor:
		_, q := z.queue()
		z.rawDescriptor(q)
	case opPublish:
		_, q := z.queue()
		z.publish(q, uint16(z.byte())|uint16(z.byte()&1)<<15)
	case opAvailIdx:
		_, q := z.queue()
		q.avail += uint16(z.byte())
		z.put16(uint64(q.AvailRing)+2, q.avail)
	case opKick:
		i, _ := z.queue()
		z.kick(i)
	case opWriteRegister:
		z.writeRegister()
	case opReadRegister:
		off, n := uint64(z.byte())|uint64(z.byte()&3)<<8, int(z.byte()%17)
		z.d.MMIO.ReadMMIO(off, make([]byte, n))
	case opWriteConfig:
		off := uint64(z.byte())
		z.d.MMIO.WriteMMIO(virtio.RegConfig+off, z.bytes(1<<(z.byte()%4)))
	case opPoke:
		at := int(z.word() % fuzzRAM)
		copy(z.d.RAM[at:], z.bytes(int(z.byte()%32)))
	case opReset:
		z.reset()
	case opSnapshot:
		z.snapshot()
	case opHost:
		if p := z.bytes(int(z.byte() % 64)); z.opts.Host != nil {
			z.hosted = true
			z.opts.Host(z.dev, p)
		}
	}
}

// setUp brings the device to DRIVER_OK with queues of 8 in a fixed place; mode chooses the features.
func (z *fuzzer) setUp(mode byte) {
	without := uint64(mode&1) * virtio.FeatureEventIdx
	without |= uint64(mode>>1&1) * virtio.FeatureIndirectDesc
	if mode&4 != 0 {
		without = ^virtio.FeatureVersion1 // nothing optional
	}
	z.d.Write32(virtio.RegStatus, virtio.StatusAcknowledge)
	z.d.Write32(virtio.RegStatus, virtio.StatusAcknowledge|virtio.StatusDriver)
	z.d.Negotiate(z.d.Offered() &^ without)
	z.bump = fuzzBuffers
	for i := range z.queues {
		q := &z.queues[i]
		base := RAMBase + guestmem.Addr(0x200*i)
		*q = fuzzQueue{QueueConfig: virtio.QueueConfig{
			Size: fuzzQueueSize, DescTable: base, AvailRing: base + 0x80, UsedRing: base + 0x100,
		}}
		z.choose(uint32(i))
		z.d.Write32(virtio.RegQueueSize, uint32(q.Size))
		for reg, a := range map[uint64]guestmem.Addr{
			virtio.RegQueueDescLow: q.DescTable, virtio.RegQueueDriverLow: q.AvailRing, virtio.RegQueueDeviceLow: q.UsedRing,
		} {
			z.d.Write32(reg, uint32(a))
			z.d.Write32(reg+4, uint32(a>>32))
		}
		clear(z.d.RAM[0x200*i : 0x200*(i+1)])
		z.d.Write32(virtio.RegQueueReady, 1)
	}
	z.d.Write32(virtio.RegStatus, z.d.Status()|virtio.StatusDriverOK)
}

func (z *fuzzer) choose(i uint32) {
	z.sel = i
	z.d.Write32(virtio.RegQueueSel, i)
}

// ready says whether queue i is, without a change that the device could see.
func (z *fuzzer) ready(i int) bool {
	z.d.Write32(virtio.RegQueueSel, uint32(i))
	r := z.d.Read32(virtio.RegQueueReady) == 1
	z.d.Write32(virtio.RegQueueSel, z.sel)
	return r
}

func (z *fuzzer) put16(addr uint64, v uint16) {
	_ = z.d.Mem.WriteAt(binary.LittleEndian.AppendUint16(nil, v), guestmem.Addr(addr))
}

// load copies n bytes, or returns nil where there is no RAM.
func (z *fuzzer) load(addr uint64, n int) []byte {
	p := make([]byte, n)
	if z.d.Mem.ReadAt(p, guestmem.Addr(addr)) != nil {
		return nil
	}
	return p
}

func (z *fuzzer) publish(q *fuzzQueue, head uint16) {
	if q.Size == 0 {
		return
	}
	z.put16(uint64(q.AvailRing)+4+2*uint64(q.avail%q.Size), head)
	q.avail++
	z.put16(uint64(q.AvailRing)+2, q.avail)
}

// buffers makes up to 3 readable and 3 writable buffers, in an order that the device accepts, and returns their
// descriptors, of which each has the next one of a table that begins with first and has size entries.
func (z *fuzzer) buffers(first, size uint16) []Descriptor {
	shape := z.byte()
	readable, writable := int(shape&3), int(shape>>2&3)
	var ds []Descriptor
	for k := range readable + writable {
		d := Descriptor{Flags: DescNext}
		n := int(z.byte())
		if k >= readable {
			d.Flags |= DescWrite
			n = max(n*16, 1)
		}
		d.Addr, d.Len = z.alloc(n), uint32(n)
		if k < readable {
			copy(z.d.RAM[d.Addr-uint64(RAMBase):], z.bytes(n))
		}
		d.Next = (first + uint16(k) + 1) % size
		ds = append(ds, d)
	}
	if len(ds) > 0 {
		ds[len(ds)-1].Flags &^= DescNext
	}
	return ds
}

// alloc returns the address of n bytes, which stay as they are until the upper half of RAM has been used up.
func (z *fuzzer) alloc(n int) uint64 {
	if z.bump+n > fuzzRAM {
		z.bump = fuzzBuffers
	}
	a := z.bump
	z.bump += n
	return uint64(RAMBase) + uint64(a)
}

// goodChain makes a well-formed chain available.
func (z *fuzzer) goodChain(q *fuzzQueue) {
	if q.Size == 0 {
		return
	}
	head := q.desc % q.Size
	ds := z.buffers(head, q.Size)
	for _, d := range ds {
		z.descriptor(q, q.desc%q.Size, d)
		q.desc++
	}
	if len(ds) > 0 {
		z.publish(q, head)
	}
}

// indirectChain makes a well-formed chain in an indirect table available; a byte of input says what is odd about it:
// the length of the table, the flags of the descriptor that refers to it, a buffer before it.
func (z *fuzzer) indirectChain(q *fuzzQueue) {
	if q.Size == 0 {
		return
	}
	odd := z.byte()
	ds := z.buffers(0, 64)
	table := make([]byte, 16*len(ds))
	for i, d := range ds {
		d.put(table[16*i:])
	}
	head := q.desc % q.Size
	if odd&0x10 != 0 { // a normal descriptor first (virtio 1.2 §2.7.5.3.2)
		d := Descriptor{Addr: z.alloc(16), Len: 16, Flags: DescNext, Next: (head + 1) % q.Size}
		z.descriptor(q, q.desc%q.Size, d)
		q.desc++
	}
	d := Descriptor{Addr: z.alloc(len(table)), Len: uint32(len(table)) + uint32(odd&3), Flags: DescIndirect}
	d.Flags |= uint16(odd>>2) & (DescNext | DescWrite)
	copy(z.d.RAM[d.Addr-uint64(RAMBase):], table)
	z.descriptor(q, q.desc%q.Size, d)
	q.desc++
	z.publish(q, head)
}

func (z *fuzzer) descriptor(q *fuzzQueue, i uint16, d Descriptor) {
	var p [16]byte
	d.put(p[:])
	_ = z.d.Mem.WriteAt(p[:], q.DescTable+guestmem.Addr(16*uint64(i)))
}

// rawDescriptor writes a descriptor that may say anything, near RAM more often than not.
func (z *fuzzer) rawDescriptor(q *fuzzQueue) {
	i := uint16(z.byte() % 16)
	d := Descriptor{Addr: uint64(z.word()), Len: z.word() & 0xffff}
	flags := z.byte()
	d.Flags, d.Next = uint16(flags&7), uint16(z.byte()%16)
	switch flags >> 5 {
	case 0:
		d.Addr = ^d.Addr
	case 1:
		d.Len = ^d.Len
	case 2:
		d.Next = ^d.Next
	default:
		d.Addr = uint64(RAMBase) + d.Addr%(fuzzRAM+64)
	}
	z.descriptor(q, i, d)
}

// writeRegister writes any register but keeps the harness's view of the queues.
func (z *fuzzer) writeRegister() {
	off, v := uint64(z.byte())&^3, z.word()
	if z.byte()&1 != 0 { // an address that may be right
		v = uint32(RAMBase) + v%fuzzRAM&^15
	}
	if off == virtio.RegStatus && v == 0 {
		z.reset()
		return
	}
	if i := int(z.sel); z.sel < uint32(len(z.queues)) && !z.ready(i) {
		z.queues[i].set(off, v)
	}
	if off == virtio.RegQueueSel {
		z.sel = v
	}
	z.d.Write32(off, v)
}

func (q *fuzzQueue) set(off uint64, v uint32) {
	for reg, a := range map[uint64]*guestmem.Addr{
		virtio.RegQueueDescLow: &q.DescTable, virtio.RegQueueDriverLow: &q.AvailRing, virtio.RegQueueDeviceLow: &q.UsedRing,
	} {
		switch off {
		case reg:
			*a = *a>>32<<32 | guestmem.Addr(v)
		case reg + 4:
			*a = *a&0xffffffff | guestmem.Addr(v)<<32
		}
	}
	if off == virtio.RegQueueSize {
		q.Size = uint16(min(v, 0xffff))
	}
}

// reset resets the device and checks that nothing of what happened before is left.
func (z *fuzzer) reset() {
	before := bytes.Clone(z.d.RAM)
	may, certain := z.writable()
	watchdog := z.watch("a reset")
	z.d.Write32(virtio.RegStatus, 0)
	watchdog.Stop()
	if certain { // a device may give back what it had in hand
		z.checkWrites(before, may)
	}
	before = bytes.Clone(z.d.RAM)
	if !z.hosted { // before anything else touches a register
		got, n := z.state(), len(z.initial)-z.opts.Keeps
		if len(got) != len(z.initial) || !bytes.Equal(got[:n], z.initial[:n]) {
			z.t.Fatalf("state after a reset is not the initial one:\n% x\n% x", got, z.initial)
		}
	}
	z.sel = 0
	for i := range z.queues {
		z.queues[i] = fuzzQueue{QueueConfig: virtio.QueueConfig{Size: uint16(z.d.Read32(virtio.RegQueueSizeMax))}}
		if z.ready(i) {
			z.t.Fatalf("queue %d is ready after a reset", i)
		}
	}
	if s, irq := z.d.Status(), z.d.Read32(virtio.RegInterruptStatus); s != 0 || irq != 0 {
		z.t.Fatalf("status %#x, interrupt status %#x after a reset", s, irq)
	}
	for i := range z.queues {
		if err := z.d.MMIO.Serve(context.Background(), i); err != nil {
			z.t.Fatalf("Serve: %v", err)
		}
	}
	if !bytes.Equal(before, z.d.RAM) {
		z.t.Fatal("the device writes to guest memory after a reset")
	}
}

// snapshot goes on with another device that takes over the state.
func (z *fuzzer) snapshot() {
	if z.hosted {
		return // what the host side holds does not travel
	}
	p := z.state()
	z.dev = z.make(z.t)
	z.d.Move(z.dev)
	if err := z.d.MMIO.UnmarshalBinary(p); err != nil {
		z.t.Fatalf("restore: %v", err)
	}
	if got := z.state(); !bytes.Equal(got, p) {
		z.t.Fatalf("state changed on the way:\n% x\n% x", p, got)
	}
}
