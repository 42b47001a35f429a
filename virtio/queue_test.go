package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// rings is a queue of 8 over 64 KiB at address 0 whose areas the test writes as it likes.
type rings struct {
	t   testing.TB
	ram []byte
	mem *guestmem.Memory
	q   *virtio.Queue
	idx uint16
}

const (
	ringSize  = 8
	descAt    = 0x1000
	availAt   = 0x2000
	usedAt    = 0x3000
	tableAt   = 0x4000 // indirect tables
	bufferAt  = 0x8000
	ringsSize = 0x10000
)

func newRings(t testing.TB, features uint64) *rings {
	t.Helper()
	r := &rings{t: t, ram: make([]byte, ringsSize)}
	r.mem = guestmem.FromBytes(0, r.ram)
	cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
	q, err := virtio.NewQueue(r.mem, cfg, 256, features|virtio.FeatureVersion1, func() {})
	if err != nil {
		t.Fatal(err)
	}
	r.q = q
	return r
}

// desc is a descriptor as it lies in memory.
type desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

func (r *rings) table(at int, ds ...desc) {
	for i, d := range ds {
		p := r.ram[at+16*i:]
		binary.LittleEndian.PutUint64(p, d.Addr)
		binary.LittleEndian.PutUint32(p[8:], d.Len)
		binary.LittleEndian.PutUint16(p[12:], d.Flags)
		binary.LittleEndian.PutUint16(p[14:], d.Next)
	}
}

func (r *rings) publish(heads ...uint16) {
	for _, h := range heads {
		binary.LittleEndian.PutUint16(r.ram[availAt+4+2*(r.idx%ringSize):], h)
		r.idx++
	}
	binary.LittleEndian.PutUint16(r.ram[availAt+2:], r.idx)
}

const (
	next     = virtiotest.DescNext
	write    = virtiotest.DescWrite
	indirect = virtiotest.DescIndirect
)

func TestPopMalformed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		descs []desc
		inner []desc // at tableAt
		head  uint16
	}{
		{"head is the size", nil, nil, ringSize},
		{"head 65535", nil, nil, 0xffff},
		{"next is the size", []desc{{bufferAt, 1, next, ringSize}}, nil, 0},
		{"self loop", []desc{{bufferAt, 1, next, 0}}, nil, 0},
		{"loop of two", []desc{{bufferAt, 1, next, 1}, {bufferAt, 1, next, 0}}, nil, 0},
		{"loop of empty buffers", []desc{{bufferAt, 0, next, 1}, {bufferAt, 0, next, 0}}, nil, 0},
		{"indirect of length 0", []desc{{tableAt, 0, indirect, 0}}, nil, 0},
		{"indirect of length 8", []desc{{tableAt, 8, indirect, 0}}, nil, 0},
		{"indirect of length 17", []desc{{tableAt, 17, indirect, 0}}, nil, 0},
		{"indirect outside RAM", []desc{{ringsSize - 16, 32, indirect, 0}}, nil, 0},
		{"indirect with next", []desc{{tableAt, 16, indirect | next, 1}, {bufferAt, 1, 0, 0}}, []desc{{bufferAt, 1, 0, 0}}, 0},
		{"indirect nested", []desc{{tableAt, 32, indirect, 0}}, []desc{{bufferAt, 1, next, 1}, {tableAt, 16, indirect, 0}}, 0},
		{"indirect is itself", []desc{{descAt, 16, indirect, 0}}, nil, 0},
		{"loop in indirect", []desc{{tableAt, 32, indirect, 0}}, []desc{{bufferAt, 1, next, 1}, {bufferAt, 1, next, 0}}, 0},
		{"indirect next outside the table", []desc{{tableAt, 32, indirect, 0}}, []desc{{bufferAt, 1, next, 2}}, 0},
		{"giant indirect of empty buffers", []desc{{0, ringsSize, indirect, 0}}, nil, 0},
		{"address overflows", []desc{{^uint64(0), 0xffffffff, 0, 0}}, nil, 0},
		{"address overflows by one", []desc{{^uint64(0), 1, 0, 0}}, nil, 0},
		{"buffer ends outside RAM", []desc{{ringsSize - 1, 2, 0, 0}}, nil, 0},
		{"empty buffer outside RAM", []desc{{ringsSize + 1, 0, 0, 0}}, nil, 0},
		{"readable after writable", []desc{{bufferAt, 1, write | next, 1}, {bufferAt, 1, 0, 0}}, nil, 0},
		{"readable after an empty writable", []desc{{bufferAt, 0, write | next, 1}, {bufferAt, 1, 0, 0}}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRings(t, virtio.FeatureIndirectDesc)
			if tt.name == "giant indirect of empty buffers" {
				for i := 0; i < ringsSize; i += 16 { // each points to the next one, forth and back
					if i < descAt || i >= usedAt {
						r.table(i, desc{bufferAt, 0, next, uint16(i/16+1) % 8})
					}
				}
			}
			r.table(descAt, tt.descs...)
			r.table(tableAt, tt.inner...)
			r.publish(tt.head)
			before := bytes.Clone(r.ram)
			for range 3 {
				if c, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
					t.Fatalf("Pop: %v, %v", c, err)
				}
			}
			if !bytes.Equal(before, r.ram) {
				t.Error("Pop changed guest memory")
			}
			if got := r.q.InFlight(); got != 0 {
				t.Errorf("%d chains in flight", got)
			}
		})
	}
}

func TestIndirectNeedsFeature(t *testing.T) {
	r := newRings(t, 0)
	r.table(descAt, desc{tableAt, 16, indirect, 0})
	r.table(tableAt, desc{bufferAt, 1, 0, 0})
	r.publish(0)
	if _, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("Pop: %v", err)
	}
}

func TestPopGood(t *testing.T) {
	type shape struct{ Readable, Writable []int }
	for _, tt := range []struct {
		name  string
		descs []desc
		inner []desc
		want  shape
	}{
		{"one", []desc{{bufferAt, 5, 0, 9}}, nil, shape{[]int{5}, nil}},
		{"both kinds", []desc{{bufferAt, 5, next, 1}, {bufferAt, 6, write, 0}}, nil, shape{[]int{5}, []int{6}}},
		{"empty ones left out", []desc{{bufferAt, 0, next, 1}, {bufferAt, 6, next | write, 2}, {bufferAt, 0, write, 2}}, nil,
			shape{nil, []int{6}}},
		{"to the last byte", []desc{{ringsSize - 1, 1, write, 0}}, nil, shape{nil, []int{1}}},
		{"indirect, its write flag ignored", []desc{{tableAt, 32, indirect | write, 0}},
			[]desc{{bufferAt, 1, next, 1}, {bufferAt, 2, write, 0}}, shape{[]int{1}, []int{2}}},
		{"direct, then indirect", []desc{{bufferAt, 3, next, 1}, {tableAt, 16, indirect, 0}}, []desc{{bufferAt, 2, write, 0}},
			shape{[]int{3}, []int{2}}},
		{"indirect not aligned", []desc{{tableAt + 1, 16, indirect, 0}}, nil, shape{nil, nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRings(t, virtio.FeatureIndirectDesc)
			r.table(descAt, tt.descs...)
			r.table(tableAt, tt.inner...)
			r.publish(0)
			c, err := r.q.Pop()
			if tt.name == "indirect not aligned" {
				// All zero but shifted by one byte: an empty buffer at address 0.
				if err != nil || c == nil {
					t.Fatalf("Pop: %v, %v", c, err)
				}
				return
			}
			if err != nil || c == nil {
				t.Fatalf("Pop: %v, %v", c, err)
			}
			var got shape
			for _, b := range c.Readable() {
				got.Readable = append(got.Readable, len(b))
			}
			for _, b := range c.Writable() {
				got.Writable = append(got.Writable, len(b))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("buffers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAvailIndexJumps(t *testing.T) {
	for _, jump := range []uint16{ringSize + 1, 100, 0x8000, 0xffff} {
		r := newRings(t, 0)
		binary.LittleEndian.PutUint16(r.ram[availAt+2:], jump)
		if c, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
			t.Errorf("index %d ahead: %v, %v", jump, c, err)
		}
	}
	r := newRings(t, 0)
	for i := range ringSize {
		r.table(descAt+16*i, desc{bufferAt, 1, 0, 0})
		r.publish(uint16(i))
	}
	for range ringSize {
		if c, err := r.q.Pop(); c == nil || err != nil {
			t.Fatalf("Pop of a full queue: %v, %v", c, err)
		}
	}
	r.publish(0) // all are in flight
	if c, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("a ninth chain of a queue of 8: %v, %v", c, err)
	}
}

// TestTotalLength makes a chain of 4 GiB out of one buffer many times: the used length has 32 bits.
func TestTotalLength(t *testing.T) {
	const size = 1 << 30
	mem, err := guestmem.Map([]guestmem.Region{{Base: 0, Size: size}})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	r := &rings{t: t, ram: mem.Host(0), mem: mem}
	cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
	if r.q, err = virtio.NewQueue(mem, cfg, 256, 0, func() {}); err != nil {
		t.Fatal(err)
	}
	r.table(descAt, desc{0, size, next | write, 1}, desc{0, size, next | write, 2}, desc{0, size, next | write, 3},
		desc{0, size - 1, write, 0}, desc{0, size, next | write, 0})
	r.publish(0)
	c, err := r.q.Pop()
	if err != nil || c.WritableLen() != 1<<32-1 {
		t.Fatalf("chain of 4 GiB - 1: %v", err)
	}
	if err := r.q.Push(c, 1<<32-1); err != nil {
		t.Error(err)
	}
	r.publish(4)
	if c, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("chain of 5 GiB - 1: %v, %v", c, err)
	}
}

func TestBufferAcrossHole(t *testing.T) {
	mem, err := guestmem.Map([]guestmem.Region{{Base: 0, Size: 0x10000}, {Base: 0x20000, Size: 0x10000}})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	r := &rings{t: t, ram: mem.Host(0), mem: mem}
	cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
	if r.q, err = virtio.NewQueue(mem, cfg, 256, 0, func() {}); err != nil {
		t.Fatal(err)
	}
	r.table(descAt, desc{0xfff0, 0x10020, 0, 0}, desc{0x1fff8, 16, 0, 0}, desc{0x20000, 16, 0, 0})
	for _, head := range []uint16{0, 1} {
		r.idx = 0
		r.publish(head)
		if c, err := r.q.Pop(); !errors.Is(err, virtio.ErrMalformed) {
			t.Errorf("chain %d over the hole: %v, %v", head, c, err)
		}
	}
	r.idx = 0
	r.publish(2)
	if c, err := r.q.Pop(); c == nil {
		t.Errorf("chain after the hole: %v", err)
	}
}

func TestPushChecks(t *testing.T) {
	r := newRings(t, 0)
	r.table(descAt, desc{bufferAt, 16, write, 0})
	r.publish(0)
	c, err := r.q.Pop()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.q.Push(c, 17); err == nil {
		t.Error("more was pushed than there is room for")
	}
	if err := newRings(t, 0).q.Push(c, 0); err == nil {
		t.Error("a chain went into a foreign queue")
	}
	if err := r.q.Push(c, 16); err != nil {
		t.Error(err)
	}
	if err := r.q.Push(c, 16); err == nil {
		t.Error("a chain was pushed twice")
	}
	if got := binary.LittleEndian.Uint16(r.ram[usedAt+2:]); got != 1 {
		t.Errorf("used index %d", got)
	}
}

// TestUnpop: a chain that is taken back comes out of the next Pop, and only the latest can be.
func TestUnpop(t *testing.T) {
	r := newRings(t, virtio.FeatureEventIdx)
	for i := range uint16(3) {
		r.table(descAt+16*int(i), desc{bufferAt, uint32(i) + 1, write, 0})
		r.publish(i)
	}
	pop := func(head int) *virtio.Chain {
		t.Helper()
		c, err := r.q.Pop()
		if err != nil || int(c.Head()) != head || c.WritableLen() != uint64(head)+1 {
			t.Fatalf("%v, %+v, want chain %d", err, c, head)
		}
		return c
	}
	a, b, c := pop(0), pop(1), pop(2)
	if r.q.Unpop(b) == nil || newRings(t, 0).q.Unpop(c) == nil {
		t.Error("a chain was taken back that is not the latest, or a foreign one")
	}
	if err := r.q.Unpop(c); err != nil {
		t.Fatal(err)
	}
	if r.q.Unpop(c) == nil {
		t.Error("a chain was taken back twice")
	}
	if err := r.q.Push(a, 1); err != nil {
		t.Fatal(err)
	}
	if err := r.q.Unpop(b); err != nil || r.q.InFlight() != 0 {
		t.Fatalf("%v, %d chains in flight", err, r.q.InFlight())
	}
	state := r.q.State()
	if _, err := virtio.RestoreQueue(r.mem, state, 256, virtio.FeatureVersion1, nil); err != nil {
		t.Error(err)
	}
	pop(1)
	pop(2)
	if c, err := r.q.Pop(); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}

// TestPushAll: the driver sees all chains of a batch or none, each full but the last.
func TestPushAll(t *testing.T) {
	r := newRings(t, 0)
	var chains []*virtio.Chain
	for i := range uint16(4) {
		r.table(descAt+16*int(i), desc{bufferAt, 100, write, 0})
		r.publish(i)
		c, err := r.q.Pop()
		if err != nil {
			t.Fatal(err)
		}
		chains = append(chains, c)
	}
	used := func(i int) uint32 { return binary.LittleEndian.Uint32(r.ram[usedAt+4+8*i+4:]) }
	idx := func() uint16 { return binary.LittleEndian.Uint16(r.ram[usedAt+2:]) }
	if err := r.q.PushAll(chains[:3], 250); err != nil {
		t.Fatal(err)
	}
	if idx() != 3 || used(0) != 100 || used(1) != 100 || used(2) != 50 {
		t.Errorf("index %d, lengths %d, %d, %d", idx(), used(0), used(1), used(2))
	}
	if err := r.q.PushAll(chains[3:], 101); err == nil {
		t.Error("more was pushed than there is room for")
	}
	if err := r.q.PushAll(chains[3:], 0); err != nil || idx() != 4 || used(3) != 0 || r.q.InFlight() != 0 {
		t.Errorf("%v, index %d, length %d", err, idx(), used(3))
	}
	if err := r.q.PushAll(chains[:1], 0); err == nil {
		t.Error("a chain was pushed twice")
	}
}

// TestUsedRingStaysInside fills everything around the rings with a pattern: nothing outside the used ring changes.
func TestUsedRingStaysInside(t *testing.T) {
	r := newRings(t, virtio.FeatureEventIdx)
	end := usedAt + 4 + 8*ringSize + 2
	for i := end; i < end+16; i++ {
		r.ram[i] = 0xaa
	}
	for i := range ringSize {
		r.table(descAt+16*i, desc{bufferAt, 1, write, 0})
	}
	for i := range 100 {
		r.publish(uint16(i % ringSize))
		before := bytes.Clone(r.ram)
		for {
			c, err := r.q.Pop()
			if err != nil {
				t.Fatal(err)
			}
			if c == nil {
				break
			}
			if err := r.q.Push(c, 1); err != nil {
				t.Fatal(err)
			}
		}
		for a := range r.ram {
			if r.ram[a] != before[a] && (a < usedAt || a >= end) {
				t.Fatalf("byte %#x changed outside the used ring", a)
			}
		}
	}
	if got := binary.LittleEndian.Uint16(r.ram[end-2:]); got != 100 {
		t.Errorf("avail_event %d after 100 chains", got)
	}
}

func TestNotify(t *testing.T) {
	for _, tt := range []struct {
		name     string
		features uint64
		flags    uint16
		event    uint16
		pushes   int
		want     int
	}{
		{"nothing pushed", 0, 0, 0, 0, 0},
		{"flags", 0, 0, 0, 3, 3},
		{"flags suppressed", 0, 1, 0, 3, 0},
		{"event 0", virtio.FeatureEventIdx, 0, 0, 3, 1},
		{"event 2", virtio.FeatureEventIdx, 0, 2, 3, 1},
		{"event 3", virtio.FeatureEventIdx, 0, 3, 3, 0},
		{"flags ignored with event", virtio.FeatureEventIdx, 1, 1, 3, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRings(t, 0)
			n := 0
			cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
			q, err := virtio.NewQueue(r.mem, cfg, 256, tt.features, func() { n++ })
			if err != nil {
				t.Fatal(err)
			}
			binary.LittleEndian.PutUint16(r.ram[availAt:], tt.flags)
			binary.LittleEndian.PutUint16(r.ram[availAt+4+2*ringSize:], tt.event)
			r.table(descAt, desc{bufferAt, 1, write, 0})
			q.Notify()
			for range tt.pushes {
				r.publish(0)
				c, err := q.Pop()
				if err != nil {
					t.Fatal(err)
				}
				if err := q.Push(c, 0); err != nil {
					t.Fatal(err)
				}
				q.Notify()
				q.Notify()
			}
			if n != tt.want {
				t.Errorf("%d notifications, want %d", n, tt.want)
			}
		})
	}
}

// TestIndexWraps takes the 16-bit indexes around several times, with event indexes.
func TestIndexWraps(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Manual: true, QueueSize: 8})
	q := d.Queue(0)
	for i := range 200_000 {
		q.Add([][]byte{{byte(i)}}, 1)
		q.Kick()
		if got := q.Reap(); len(got) != 1 || got[0].Bytes()[0] != byte(i) {
			t.Fatalf("request %d came back as %d", i, len(got))
		}
	}
}

// TestNoLostKick has driver and device race for the moment in which the queue is empty: without a full fence between
// avail_event and the second look at the index, one of them sleeps for ever sooner or later.
func TestNoLostKick(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx} {
		d := virtiotest.New(t, newEcho(), virtiotest.Options{Without: without, QueueSize: 16})
		q := d.Queue(0)
		rounds := 300_000
		if testing.Short() {
			rounds = 20_000
		}
		for i := range rounds {
			r := q.Add([][]byte{{1}}, 1)
			q.Kick()
			for spin := 0; !r.Done && spin < i%50; spin++ {
				q.Reap()
			}
			if !r.Done {
				q.Wait(r)
			}
		}
	}
}

func BenchmarkPopPush(b *testing.B) {
	for _, bb := range []struct {
		name  string
		descs []desc
		inner []desc
	}{
		{"direct1", []desc{{bufferAt, 64, write, 0}}, nil},
		{"direct3", []desc{{bufferAt, 16, next, 1}, {bufferAt, 4096, write | next, 2}, {bufferAt, 1, write, 0}}, nil},
		{"indirect3", []desc{{tableAt, 48, indirect, 0}},
			[]desc{{bufferAt, 16, next, 1}, {bufferAt, 4096, write | next, 2}, {bufferAt, 1, write, 0}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := &rings{ram: make([]byte, ringsSize)}
			r.mem = guestmem.FromBytes(0, r.ram)
			cfg := virtio.QueueConfig{Size: ringSize, DescTable: descAt, AvailRing: availAt, UsedRing: usedAt}
			q, err := virtio.NewQueue(r.mem, cfg, 256, virtio.FeatureIndirectDesc|virtio.FeatureEventIdx, func() {})
			if err != nil {
				b.Fatal(err)
			}
			r.table(descAt, bb.descs...)
			r.table(tableAt, bb.inner...)
			b.ReportAllocs()
			for b.Loop() {
				r.publish(0)
				c, err := q.Pop()
				if err != nil {
					b.Fatal(err)
				}
				if err := q.Push(c, 0); err != nil {
					b.Fatal(err)
				}
				q.Notify()
			}
		})
	}
}

func TestPopPushDoesNotAllocate(t *testing.T) {
	r := newRings(t, virtio.FeatureIndirectDesc|virtio.FeatureEventIdx)
	r.table(descAt, desc{tableAt, 32, indirect, 0})
	r.table(tableAt, desc{bufferAt, 16, next, 1}, desc{bufferAt, 1, write, 0})
	if n := testing.AllocsPerRun(100, func() {
		r.publish(0)
		c, _ := r.q.Pop()
		_ = r.q.Push(c, 0)
		r.q.Notify()
	}); n != 0 {
		t.Errorf("%v allocations per chain", n)
	}
}

// TestManyChainsDoNotAllocate: those of a large frame are in hand at once.
func TestManyChainsDoNotAllocate(t *testing.T) {
	r := newRings(t, 0)
	chains := make([]*virtio.Chain, ringSize)
	for i := range ringSize {
		r.table(descAt+16*i, desc{bufferAt, 16, write, 0})
	}
	if n := testing.AllocsPerRun(100, func() {
		for i := range chains {
			r.publish(uint16(i))
		}
		for i := range chains {
			chains[i], _ = r.q.Pop()
		}
		_ = r.q.Unpop(chains[ringSize-1])
		_ = r.q.PushAll(chains[:ringSize-1], 0)
		c, _ := r.q.Pop()
		_ = r.q.Push(c, 0)
	}); n != 0 {
		t.Errorf("%v allocations for %d chains", n, ringSize)
	}
}
