package virtiotest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
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

func fuzzSeeds(requests [][]byte) [][]byte {
	chain := func(queue byte, request []byte, room byte) []byte {
		// The request in up to 3 readable buffers, one writable of 16 times room, one of a byte.
		pieces := min(max((len(request)+maxReadable-1)/maxReadable, 1), 3)
		seed := []byte{opGoodChain, queue, 0b1000 | byte(pieces)}
		for range pieces {
			n := min(len(request), maxReadable)
			seed = append(append(seed, byte(n)), request[:n]...)
			request = request[n:]
		}
		return append(seed, room, 0)
	}
	seeds := [][]byte{
		{opSetUp, 0},
		{opSetUp, 1, opReset, opSetUp, 2, opSnapshot},
		{opSetUp, 0, opAvailIdx, 0, 200, opKick, 0},
	}
	for q := range byte(3) {
		for _, r := range append(requests, []byte{}) {
			s := append([]byte{opSetUp, q}, chain(q, r, 32)...)
			s = append(s, opKick, q, opHost, 4, 'a', 'b', 'c', 'd', opKick, q, opSnapshot)
			seeds = append(seeds, append(s, append(chain(q, r, 255), opKick, q)...))
		}
	}
	for i, r := range append(requests, []byte{}) {
		// In an indirect table, the first one with all that may be odd about that; then a new start without a chain.
		oddities := []byte{0}
		if i == 0 {
			oddities = []byte{0, 1, 4, 8, 0x10}
		}
		for _, odd := range oddities {
			s := append([]byte{opSetUp, 0, opIndirectChain, 0, odd}, chain(0, r, 32)[2:]...)
			seeds = append(seeds, append(s, opKick, 0, opSetUp, 0, opKick, 0))
		}
	}
	return slices.Concat(seeds, hostileSeeds(), floodSeeds(requests), registerSeeds())
}

// hostileSeeds has chains that a device must not follow.
func hostileSeeds() (seeds [][]byte) {
	const near, farAddr, farLen, farNext = 3 << 5, 0 << 5, 1 << 5, 2 << 5 // what rawDescriptor makes of the fields
	raw := func(i byte, addr uint32, n uint16, flags, next byte) []byte {
		p := binary.LittleEndian.AppendUint32([]byte{opRawDescriptor, 0, i}, addr)
		return append(binary.LittleEndian.AppendUint32(p, uint32(n)), flags, next)
	}
	for _, descs := range [][]byte{
		raw(0, fuzzBuffers, 0, near|DescNext, 0), // a loop of nothing
		raw(0, fuzzBuffers, 1, near|DescNext, 0),
		slices.Concat(raw(0, fuzzBuffers, 0, near|DescNext, 1), raw(1, fuzzBuffers, 0, near|DescNext, 0)),
		raw(0, fuzzBuffers, 1, near|DescNext, fuzzQueueSize),
		raw(0, fuzzBuffers, 1, farNext|DescNext, 1),
		raw(0, 7, 16, farAddr, 0),
		raw(0, fuzzBuffers, 1, farLen, 0),
		raw(0, fuzzRAM-1, 2, near|DescWrite, 0),
		slices.Concat(raw(0, fuzzBuffers, 1, near|DescWrite|DescNext, 1), raw(1, fuzzBuffers+1, 1, near, 0)),
		raw(0, 0, 16, near|DescIndirect, 0), // the table itself
		raw(0, fuzzBuffers, 8, near|DescIndirect, 0),
		raw(0, fuzzBuffers, 0, near|DescIndirect, 0),
		raw(0, 0, fuzzRAM-1, near|DescIndirect, 0),
		// A table whose descriptor says that there is another one after it: two, the second of nothing.
		slices.Concat(raw(0, 16, 16, near|DescIndirect, 0), raw(1, fuzzBuffers, 1, near|DescNext, 1)),
	} {
		for mode := range byte(2) {
			s := append([]byte{opSetUp, 2 * mode}, descs...)
			seeds = append(seeds, append(s, opPublish, 0, 0, 0, opKick, 0, opKick, 0, opSnapshot))
		}
	}
	return append(seeds,
		[]byte{opSetUp, 0, opPublish, 0, fuzzQueueSize, 0, opKick, 0},
		[]byte{opSetUp, 0, opPublish, 0, 0xff, 1, opKick, 0},
		// A good chain, in each entry of the ring, and an index far ahead of it.
		[]byte{opSetUp, 0, opGoodChain, 0, 0b101, 1, 'x', 1, opAvailIdx, 0, 200, opKick, 0})
}

// floodSeeds has more of the first request and of the last than any bound of a device allows for what it causes, on each
// queue, while the other queues have no buffers.
func floodSeeds(requests [][]byte) (seeds [][]byte) {
	if len(requests) == 0 {
		return nil
	}
	for q := range byte(3) {
		for _, r := range [][]byte{requests[0], requests[len(requests)-1]} {
			r = r[:min(len(r), maxReadable)]
			seed := []byte{opSetUp, 0}
			for range (fuzzMaxOps - 1) / 2 {
				seed = append(append(append(seed, opGoodChain, q, 1, byte(len(r))), r...), opKick, q)
			}
			seeds = append(seeds, seed)
		}
	}
	return seeds
}

// registerSeeds touches what chains do not: every register, and the configuration space.
func registerSeeds() [][]byte {
	read, write, config := []byte{opSetUp, 0}, []byte{opSetUp, 0}, []byte{opSetUp, 0}
	for reg := range 64 {
		off := byte(4 * reg)
		read = append(read, opReadRegister, off, off>>2&1, 4)
		write = append(write, opWriteRegister, off, 1, 0, 0, 0, off>>2&1)
		config = append(config, opWriteConfig, off, 2, 1, 2, 3, 4)
	}
	return [][]byte{
		read, write, config,
		{opSetUp, 0, opWriteRegister, virtio.RegQueueReady, 0, 0, 0, 0, 0, opKick, 0, opSnapshot}, // a queue stopped
		{opSetUp, 0, opWriteRegister, virtio.RegStatus, virtio.StatusFailed, 0, 0, 0, 0, opKick, 0, opSnapshot},
		// A queue that cannot be made ready: DEVICE_NEEDS_RESET during set-up.
		{
			opReset, opWriteRegister, virtio.RegStatus, 1, 0, 0, 0, 0, opWriteRegister, virtio.RegStatus, 3, 0, 0, 0, 0,
			opWriteRegister, virtio.RegDriverFeaturesSel, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegDriverFeatures, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegStatus, 11, 0, 0, 0, 0, opWriteRegister, virtio.RegQueueReady, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegStatus, 15, 0, 0, 0, 0, opKick, 0, opSnapshot,
		},
		// An interrupt that the driver does not want: used_event far away.
		{
			opSetUp, 0, opPoke, 0x94, 0, 0, 0, 2, 0xff, 0x7f, opGoodChain, 0, 0b1001, 1, 'x', 1, 0, opKick, 0, opSnapshot,
			opSetUp, 1, opPoke, 0x80, 0, 0, 0, 2, 1, 0, opGoodChain, 0, 0b1001, 1, 'x', 1, 0, opKick, 0, opSnapshot,
		},
	}
}

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

// kick has every queue served, the notified one first, and checks what that did.
func (z *fuzzer) kick(i int) {
	if len(z.queues) == 0 {
		return
	}
	defer z.watch(fmt.Sprintf("Serve(%d)", i)).Stop()
	before := bytes.Clone(z.d.RAM)
	may, certain := z.writable()
	used := make([]uint16, len(z.queues))
	for k := range z.queues {
		used[k] = z.usedIdx(k)
	}
	for k := range z.queues {
		if err := z.d.MMIO.Serve(context.Background(), (i+k)%len(z.queues)); err != nil {
			z.t.Fatalf("Serve: %v", err)
		}
	}
	if z.opts.Settle != nil {
		z.opts.Settle(z.dev)
	}
	if z.opts.Check != nil {
		z.opts.Check(z.t, z.dev)
	}
	if !certain {
		return
	}
	z.checkWrites(before, may)
	for k := range z.queues {
		if p := z.load(uint64(z.queues[k].AvailRing)+2, 2); p != nil && z.ready(k) {
			z.checkUsed(k, used[k], binary.LittleEndian.Uint16(p)-used[k])
		}
	}
}

// watch ends the run when the watchdog that it returns is not stopped in time.
func (z *fuzzer) watch(what string) *time.Timer {
	hung := z.opts.hung
	if hung == nil {
		hung = func() { panic(what + " does not end") }
	}
	return time.AfterFunc(cmp.Or(z.opts.timeout, fuzzTimeout), hung)
}

// checkWrites compares guest memory with what it was before: only bytes that may change did.
func (z *fuzzer) checkWrites(before []byte, may []bool) {
	for a := range before {
		if before[a] != z.d.RAM[a] && !may[a] {
			z.t.Fatalf("the device changed guest memory at %#x, which is in no device-writable buffer", int(RAMBase)+a)
		}
	}
}

// checkUsed looks at the entries of queue k's used ring from old on: no more of them than were due, and none that says
// that more was written than its chain has room for.
func (z *fuzzer) checkUsed(k int, old, due uint16) {
	q := &z.queues[k]
	got := z.usedIdx(k) - old
	if got > due || got > q.Size {
		z.t.Fatalf("queue %d: %d chains came back of %d, in a queue of %d", k, got, due, q.Size)
	}
	for i := range got {
		p := z.load(uint64(q.UsedRing)+4+8*uint64((old+i)%q.Size), 8)
		if p == nil {
			return // a used ring outside of RAM: the queue has another one
		}
		head, written := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
		if room := z.room(q, head); uint64(written) > room {
			z.t.Fatalf("queue %d: %d bytes written to chain %d, which has room for %d", k, written, head, room)
		}
	}
}

// room returns the number of device-writable bytes of a chain, walking no further than the device may.
func (z *fuzzer) room(q *fuzzQueue, head uint32) (total uint64) {
	table, i, n := uint64(q.DescTable), uint64(head), uint64(q.Size)
	for range 2 * virtio.MaxQueueSize {
		p := z.load(table+16*i, 16)
		if p == nil || i >= n {
			break
		}
		flags, size := binary.LittleEndian.Uint16(p[12:]), binary.LittleEndian.Uint32(p[8:])
		switch {
		case flags&DescIndirect != 0:
			table, i, n = binary.LittleEndian.Uint64(p), 0, uint64(size/16)
			continue
		case flags&DescWrite != 0:
			total += uint64(size)
		}
		if flags&DescNext == 0 {
			break
		}
		i = uint64(binary.LittleEndian.Uint16(p[14:]))
	}
	return total
}

func (z *fuzzer) usedIdx(k int) uint16 {
	if p := z.load(uint64(z.queues[k].UsedRing)+2, 2); p != nil && z.ready(k) {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// cover counts by how many ranges each byte of RAM is covered: first the differences, then, after sum, the counts.
type cover [fuzzRAM + 1]int32

func (c *cover) add(addr guestmem.Addr, n uint64) {
	if a := uint64(addr - RAMBase); a < fuzzRAM {
		c[a]++
		c[a+min(n, fuzzRAM-a)]--
	}
}

func (c *cover) sum() {
	for i := range fuzzRAM {
		c[i+1] += c[i]
	}
}

// writable returns which bytes the device may write: used rings and all that any descriptor calls writable. It is not
// certain of that when writable ranges lie over what says so, or rings over one another.
func (z *fuzzer) writable() (may []bool, certain bool) {
	var rings, tables, used, buffers cover
	for k := range z.queues {
		if q := &z.queues[k]; z.ready(k) {
			rings.add(q.DescTable, 16*uint64(q.Size))
			rings.add(q.AvailRing, 6+2*uint64(q.Size))
			rings.add(q.UsedRing, 6+8*uint64(q.Size))
			used.add(q.UsedRing, 6+8*uint64(q.Size))
			z.scan(z.load(uint64(q.DescTable), 16*int(q.Size)), &buffers, &tables)
		}
	}
	rings.sum()
	tables.sum()
	used.sum()
	buffers.sum()
	may, certain = make([]bool, fuzzRAM), true
	for a := range may {
		may[a] = buffers[a] > 0 || used[a] > 0
		overlap := buffers[a] > 0 && (rings[a] > 0 || tables[a] > 0) || used[a] > 0 && tables[a] > 0
		certain = certain && rings[a] <= 1 && !overlap
	}
	return may, certain
}

// scan collects the writable buffers of a descriptor table, and with tables not nil those of the indirect tables.
func (z *fuzzer) scan(p []byte, buffers, tables *cover) {
	for ; len(p) >= 16; p = p[16:] {
		addr, n := guestmem.Addr(binary.LittleEndian.Uint64(p)), binary.LittleEndian.Uint32(p[8:])
		flags := binary.LittleEndian.Uint16(p[12:])
		if flags&DescIndirect != 0 && tables != nil && n <= fuzzRAM {
			tables.add(addr, uint64(n))
			z.scan(z.load(uint64(addr), int(n)), buffers, nil)
		}
		if flags&DescWrite != 0 {
			buffers.add(addr, uint64(n))
		}
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
		if got := z.state(); !bytes.Equal(got, z.initial) {
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
