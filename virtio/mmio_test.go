package virtio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// echo is a device that copies what is readable to what is writable.
type echo struct {
	mu        sync.Mutex
	config    []byte
	transport virtio.Transport
	active    []*virtio.Queue
	features  uint64
	hold      chan struct{} // when set, Serve blocks on it after its first Pop, until cancelled
	entered   chan struct{}
	deaf      bool // Serve cannot be cancelled
	fill      bool // what is writable is filled up
}

func newEcho() *echo {
	return &echo{config: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, entered: make(chan struct{}, 16)}
}

func (e *echo) ID() virtio.DeviceID              { return 42 }
func (e *echo) Features() uint64                 { return 1<<3 | 1<<40 }
func (e *echo) Queues() []uint16                 { return []uint16{256, 8} }
func (e *echo) Attach(t virtio.Transport)        { e.transport = t }
func (e *echo) MarshalState() ([]byte, error)    { return []byte("state"), nil }
func (e *echo) WriteConfig(off uint32, p []byte) { e.mu.Lock(); copy(e.config[off:], p); e.mu.Unlock() }

func (e *echo) UnmarshalState(p []byte) error {
	if string(p) != "state" {
		return fmt.Errorf("not mine: %q", p)
	}
	return nil
}

func (e *echo) Config() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.config)
}

func (e *echo) Activate(features uint64, queues []*virtio.Queue) {
	e.features, e.active = features, queues
}

func (e *echo) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.config = []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
}

func (e *echo) Serve(ctx context.Context, i int, q *virtio.Queue) error {
	for {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		if e.hold != nil {
			e.entered <- struct{}{}
			if e.deaf {
				<-e.hold
			} else {
				select {
				case <-e.hold:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		buf := make([]byte, min(c.ReadableLen(), 1<<20))
		n := c.Write(buf[:virtio.CopyFrom(buf, c.Readable())])
		if e.fill {
			for _, b := range virtio.Skip(c.Writable(), n) {
				n += copy(b, bytes.Repeat([]byte{0xa5}, len(b)))
			}
		}
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
}

func TestIdentification(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Uninitialised: true, Manual: true})
	for _, tt := range []struct {
		reg  uint64
		want uint32
	}{
		{virtio.RegMagicValue, 0x74726976}, {virtio.RegVersion, 2}, {virtio.RegDeviceID, 42},
		{virtio.RegStatus, 0}, {virtio.RegInterruptStatus, 0}, {virtio.RegQueueSizeMax, 256},
		{virtio.RegQueueReady, 0}, {virtio.RegSHMLenLow, 0xffffffff}, {virtio.RegSHMLenHigh, 0xffffffff},
		{virtio.RegSHMBaseLow, 0xffffffff}, {virtio.RegConfigGeneration, 0}, {0xf0, 0},
	} {
		if got := d.Read32(tt.reg); got != tt.want {
			t.Errorf("register %#x reads %#x, want %#x", tt.reg, got, tt.want)
		}
	}
	if got, want := d.Offered(), uint64(1<<3|1<<28|1<<29|1<<32|1<<40); got != want {
		t.Errorf("offered features %#x, want %#x", got, want)
	}
	d.Write32(virtio.RegDeviceFeaturesSel, 2)
	if got := d.Read32(virtio.RegDeviceFeatures); got != 0 {
		t.Errorf("feature word 2 is %#x", got)
	}
	for _, sel := range []uint32{2, 0x80000000, 0xffffffff} {
		d.Write32(virtio.RegQueueSel, sel)
		if got := d.Read32(virtio.RegQueueSizeMax); got != 0 {
			t.Errorf("queue %#x has size %d", sel, got)
		}
		d.Write32(virtio.RegQueueSize, 8)
		d.Write32(virtio.RegQueueReady, 1)
		if got := d.Read32(virtio.RegQueueReady); got != 0 {
			t.Errorf("queue %#x became ready", sel)
		}
	}
}

func TestSpareSlot(t *testing.T) {
	ram := guestmem.FromBytes(0, make([]byte, 4096))
	m := virtio.NewMMIO(nil, ram, virtio.MMIOConfig{})
	read := func(off uint64) uint32 {
		p := []byte{9, 9, 9, 9}
		m.ReadMMIO(off, p)
		return binary.LittleEndian.Uint32(p)
	}
	if read(virtio.RegMagicValue) != virtio.MagicValue || read(virtio.RegVersion) != 2 || read(virtio.RegDeviceID) != 0 {
		t.Error("a spare slot does not look like one")
	}
	for off := uint64(0); off < virtio.MMIOSize; off += 4 {
		m.WriteMMIO(off, []byte{1, 0, 0, 0})
		if got := read(off); off > virtio.RegVendorID && got != 0 {
			t.Errorf("register %#x of a spare slot reads %#x", off, got)
		}
	}
	if err := m.Attach(newEcho()); err != nil {
		t.Fatal(err)
	}
	if got := read(virtio.RegDeviceID); got != 42 {
		t.Errorf("after Attach the device is %d", got)
	}
	if err := m.Attach(newEcho()); err == nil {
		t.Error("two devices in one slot")
	}
}

// TestDetach takes a device away in the middle of a request, and gives the slot another.
func TestDetach(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{})
	for i := range 2 {
		d.Queue(i).Do([][]byte{[]byte("abc")}, 8) // both are served now
	}
	e.hold = make(chan struct{})
	d.Queue(0).Add([][]byte{[]byte("abc")}, 8)
	d.Queue(0).Kick()
	<-e.entered
	d.MMIO.Detach()
	if got := d.Status(); got != 0 {
		t.Errorf("status %#x after the device went", got)
	}
	if got := d.Read32(virtio.RegDeviceID); got != 0 || d.MMIO.Queues() != 0 {
		t.Errorf("the slot shows device %d and %d queues", got, d.MMIO.Queues())
	}
	d.StopWorkers()
	d.MMIO.Detach() // of nothing
	if err := d.MMIO.Attach(newEcho()); err != nil {
		t.Fatal(err)
	}
	if got := d.Read32(virtio.RegDeviceID); got != 42 || d.Status() != 0 {
		t.Errorf("the next device is %d, with status %#x", got, d.Status())
	}
}

// TestDetachRace has a driver set a device up again and again while it comes and goes.
func TestDetachRace(t *testing.T) {
	ram := guestmem.FromBytes(0, make([]byte, 1<<16))
	m := virtio.NewMMIO(newEcho(), ram, virtio.MMIOConfig{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := make([]byte, 4)
		for range 5000 {
			m.Detach()
			runtime.Gosched() // to a driver that had begun before
			if m.ReadMMIO(virtio.RegStatus, p); p[0] != 0 {
				t.Errorf("the empty slot has status %#x", p)
				return
			}
			_ = m.Attach(newEcho())
		}
	}()
	for ended := false; !ended; {
		for _, w := range [][2]uint32{
			{virtio.RegStatus, 3}, {virtio.RegDriverFeaturesSel, 1}, {virtio.RegDriverFeatures, 1}, {virtio.RegStatus, 11},
			{virtio.RegQueueSize, 8}, {virtio.RegQueueDescLow, 0x1000}, {virtio.RegQueueDriverLow, 0x2000}, {virtio.RegQueueDeviceLow, 0x3000},
			{virtio.RegQueueReady, 1}, {virtio.RegStatus, 15}, {virtio.RegQueueNotify, 0}, {virtio.RegStatus, 0},
		} {
			m.WriteMMIO(uint64(w[0]), binary.LittleEndian.AppendUint32(nil, w[1]))
		}
		select {
		case <-done:
			ended = true
		default:
		}
	}
}

func TestStatusMachine(t *testing.T) {
	const v1 = virtio.FeatureVersion1
	for _, tt := range []struct {
		name     string
		features uint64
		writes   []uint32
		want     uint32
	}{
		{"in order", v1, []uint32{1, 3, 11, 15}, 15},
		{"in one write", v1, []uint32{15}, 15},
		{"driver first", v1, []uint32{2}, 0},
		{"features without driver", v1, []uint32{1, 9}, 1},
		{"driver ok without features", v1, []uint32{1, 3, 7}, 3},
		{"legacy driver", 0, []uint32{1, 3, 11}, 3},
		{"legacy driver goes on", 0, []uint32{1, 3, 11, 15}, 3},
		{"feature not offered", v1 | 1<<5, []uint32{1, 3, 11}, 3},
		{"bits do not go away", v1, []uint32{1, 3, 11, 1}, 11},
		{"failed", v1, []uint32{1, 3, 0x83}, 0x83},
		{"nothing after failed", v1, []uint32{1, 0x81, 3, 11}, 0x81},
		{"needs reset is the device's", v1, []uint32{0x41}, 1},
		{"unknown bits", v1, []uint32{0xffffff31}, 1},
		{"reset", v1, []uint32{15, 0}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := virtiotest.New(t, newEcho(), virtiotest.Options{Uninitialised: true, Manual: true})
			for i := range uint32(2) {
				d.Write32(virtio.RegDriverFeaturesSel, i)
				d.Write32(virtio.RegDriverFeatures, uint32(tt.features>>(32*i)))
			}
			for _, v := range tt.writes {
				d.Write32(virtio.RegStatus, v)
			}
			if got := d.Status(); got != tt.want {
				t.Errorf("status %#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestFeatureWordsBeyond64(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Uninitialised: true, Manual: true})
	d.Write32(virtio.RegStatus, 3)
	d.Write32(virtio.RegDriverFeaturesSel, 2)
	d.Write32(virtio.RegDriverFeatures, 1)
	d.Negotiate(virtio.FeatureVersion1)
	if got := d.Status(); got&virtio.StatusFeaturesOK != 0 {
		t.Errorf("FEATURES_OK stuck with feature bit 64: status %#x", got)
	}
}

func TestFeaturesFrozen(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{Uninitialised: true, Manual: true})
	d.Write32(virtio.RegStatus, 3)
	d.Negotiate(virtio.FeatureVersion1)
	d.Write32(virtio.RegDriverFeaturesSel, 0)
	d.Write32(virtio.RegDriverFeatures, 1<<5)
	d.Write32(virtio.RegStatus, 15)
	if e.features != virtio.FeatureVersion1 {
		t.Errorf("device activated with %#x", e.features)
	}
}

func TestEchoAllModes(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts virtiotest.Options
	}{
		{"indirect, event idx", virtiotest.Options{}},
		{"direct, event idx", virtiotest.Options{Direct: true}},
		{"no indirect", virtiotest.Options{Without: virtio.FeatureIndirectDesc}},
		{"no event idx", virtiotest.Options{Without: virtio.FeatureEventIdx}},
		{"manual", virtiotest.Options{Manual: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := virtiotest.New(t, newEcho(), tt.opts)
			for i := range 1000 {
				want := []byte(fmt.Sprintf("message %d", i))
				r := d.Queue(i%2).Do([][]byte{want[:3], want[3:]}, 4, 100)
				if diff := cmp.Diff(want, r.Bytes()); diff != "" {
					t.Fatalf("request %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

func TestBadQueueSetUp(t *testing.T) {
	base := uint32(virtiotest.RAMBase)
	for _, tt := range []struct {
		name                    string
		size, desc, avail, used uint32
		ok                      bool
	}{
		{"good", 8, base, base + 0x100, base + 0x200, true},
		{"driver area aligned to 2", 8, base, base + 0x102, base + 0x200, true},
		{"size 0", 0, base, base + 0x100, base + 0x200, false},
		{"size 12", 12, base, base + 0x100, base + 0x200, false},
		{"size above the maximum", 512, base, base + 0x10000, base + 0x20000, false},
		{"size 65536+8", 65544, base, base + 0x100, base + 0x200, false},
		{"descriptors unaligned", 8, base + 8, base + 0x100, base + 0x200, false},
		{"driver area unaligned", 8, base, base + 0x101, base + 0x200, false},
		{"device area unaligned", 8, base, base + 0x100, base + 0x202, false},
		{"outside RAM", 8, 0, base + 0x100, base + 0x200, false},
		{"used ring ends outside RAM", 8, base, base + 0x100, base + 0x400000 - 64, false},
		{"available ring ends outside RAM", 8, base, base + 0x400000 - 16, base + 0x200, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := virtiotest.New(t, newEcho(), virtiotest.Options{Uninitialised: true, Manual: true})
			d.Write32(virtio.RegStatus, 3)
			d.Negotiate(virtio.FeatureVersion1)
			d.Write32(virtio.RegQueueSize, tt.size)
			d.Write32(virtio.RegQueueDescLow, tt.desc)
			d.Write32(virtio.RegQueueDriverLow, tt.avail)
			d.Write32(virtio.RegQueueDeviceLow, tt.used)
			d.Write32(virtio.RegQueueReady, 1)
			ready := d.Read32(virtio.RegQueueReady) == 1
			needsReset := d.Status()&virtio.StatusNeedsReset != 0
			if ready != tt.ok || needsReset == tt.ok {
				t.Errorf("ready %v, needs reset %v; want a queue that is accepted: %v", ready, needsReset, tt.ok)
			}
			if d.Interrupts() != 0 {
				t.Error("an interrupt before DRIVER_OK")
			}
		})
	}
}

func TestReadyQueueIsFrozen(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Manual: true})
	d.Write32(virtio.RegQueueSel, 0)
	before, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	d.Write32(virtio.RegQueueSize, 7)
	for reg := uint64(virtio.RegQueueDescLow); reg <= virtio.RegQueueDeviceHigh; reg += 4 {
		d.Write32(reg, 1)
	}
	d.Write32(virtio.RegQueueReady, 1)
	if after, err := d.MMIO.MarshalBinary(); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the set-up changed (%v):\n% x\n% x", err, before, after)
	}
	if r := d.Queue(0).Do([][]byte{[]byte("x")}, 1); string(r.Bytes()) != "x" {
		t.Errorf("echo %q after writes to a queue that is ready", r.Bytes())
	}
}

// TestQueueReadyOutsideSetUp: a queue becomes ready between FEATURES_OK and DRIVER_OK, and at no other time.
func TestQueueReadyOutsideSetUp(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{Manual: true})
	q := d.Queue(0).QueueConfig
	ready := func() bool {
		d.Write32(virtio.RegQueueSel, 0)
		d.Write32(virtio.RegQueueSize, uint32(q.Size))
		d.Write32(virtio.RegQueueDescLow, uint32(q.DescTable))
		d.Write32(virtio.RegQueueDriverLow, uint32(q.AvailRing))
		d.Write32(virtio.RegQueueDeviceLow, uint32(q.UsedRing))
		d.Write32(virtio.RegQueueReady, 1)
		return d.Read32(virtio.RegQueueReady) == 1
	}
	d.Write32(virtio.RegQueueSel, 0)
	d.Write32(virtio.RegQueueReady, 0)
	if ready() {
		t.Error("a queue came back while the device was live")
	}
	d.Reset()
	for _, status := range []uint32{0, virtio.StatusAcknowledge, virtio.StatusAcknowledge | virtio.StatusDriver} {
		d.Write32(virtio.RegStatus, status)
		if ready() {
			t.Errorf("a queue is ready with status %#x", status)
		}
	}
	d.Negotiate(virtio.FeatureVersion1)
	if !ready() {
		t.Fatal("the queue is not ready after FEATURES_OK")
	}
	d.Write32(virtio.RegQueueReady, 0)
	if !ready() {
		t.Error("a queue that was stopped during set-up is not ready again")
	}
	d.Write32(virtio.RegQueueReady, 0)
	d.Write32(virtio.RegStatus, virtio.StatusFailed)
	if ready() {
		t.Error("a queue is ready after FAILED")
	}
}

func TestQueueStoppedByQueueReady(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{})
	d.Queue(0).Do([][]byte{[]byte("x")}, 1)
	d.Write32(virtio.RegQueueSel, 0)
	d.Write32(virtio.RegQueueReady, 0)
	if got := d.Read32(virtio.RegQueueReady); got != 0 {
		t.Fatalf("QueueReady reads %d", got)
	}
	before := d.Queue(0).UsedIdx()
	d.Queue(0).Add([][]byte{[]byte("y")}, 1)
	d.Queue(0).ForceKick()
	if r := d.Queue(1).Do([][]byte{[]byte("z")}, 1); string(r.Bytes()) != "z" {
		t.Errorf("the other queue echoes %q", r.Bytes())
	}
	if got := d.Queue(0).UsedIdx(); got != before {
		t.Error("a stopped queue was served")
	}
}

func TestMalformedNeedsReset(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Manual: true, Logger: logger})
	for range 1000 {
		q := d.Queue(0)
		q.SetDescriptor(0, virtiotest.Descriptor{Addr: 1 << 50, Len: 1})
		q.Publish(0)
		d.Ack()
		n := d.Interrupts()
		q.ForceKick()
		if got := d.Status(); got&virtio.StatusNeedsReset == 0 {
			t.Fatalf("status %#x after a descriptor outside RAM", got)
		}
		if d.Interrupts() != n+1 || d.Ack() != virtio.InterruptConfig {
			t.Fatal("no configuration change interrupt")
		}
		q.ForceKick()
		if d.Interrupts() != n+1 {
			t.Fatal("a device in need of a reset goes on")
		}
		d.Init()
		if r := d.Queue(0).Do([][]byte{[]byte("x")}, 1); string(r.Bytes()) != "x" {
			t.Fatalf("echo after a reset: %q", r.Bytes())
		}
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n == 0 || n > 20 {
		t.Errorf("%d log lines for 1000 faults", n)
	}
}

func TestConfigSpace(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{Manual: true})
	for _, tt := range []struct {
		off   uint64
		width int
		want  []byte
	}{
		{0, 1, []byte{1}}, {1, 2, []byte{2, 3}}, {3, 4, []byte{4, 5, 6, 7}}, {0, 8, []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		{8, 1, []byte{9}}, {8, 4, []byte{9, 0, 0, 0}}, {9, 4, []byte{0, 0, 0, 0}}, {^uint64(0) - 0x200, 4, []byte{0, 0, 0, 0}},
	} {
		p := bytes.Repeat([]byte{0xee}, tt.width)
		d.MMIO.ReadMMIO(virtio.RegConfig+tt.off, p)
		if diff := cmp.Diff(tt.want, p); diff != "" {
			t.Errorf("%d bytes at %#x (-want +got):\n%s", tt.width, tt.off, diff)
		}
	}
	d.MMIO.WriteMMIO(virtio.RegConfig+7, []byte{70, 80})
	d.MMIO.WriteMMIO(virtio.RegConfig+8, []byte{1, 1})
	d.MMIO.WriteMMIO(virtio.RegConfig+0xe00, []byte{1, 1})
	d.MMIO.WriteMMIO(^uint64(0), []byte{1, 1})
	if got, want := d.ReadConfig(7, 2), []byte{70, 80}; !bytes.Equal(got, want) {
		t.Errorf("configuration after writes %v, want %v", got, want)
	}

	before := d.Read32(virtio.RegConfigGeneration)
	e.mu.Lock()
	e.config[0] = 99
	e.mu.Unlock()
	e.transport.ConfigChanged()
	if got := d.Read32(virtio.RegConfigGeneration); got == before {
		t.Error("the configuration changed and its generation did not")
	}
	if got := d.WaitInterrupt(); got != virtio.InterruptConfig {
		t.Errorf("InterruptStatus %#x, want a configuration change", got)
	}
	if got := d.Read32(virtio.RegInterruptStatus); got != 0 {
		t.Errorf("InterruptStatus %#x after the acknowledgement", got)
	}
}

func TestOddRegisterAccess(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{Manual: true})
	for _, width := range []int{0, 1, 2, 3, 8, 16} {
		p := bytes.Repeat([]byte{0xee}, width)
		d.MMIO.ReadMMIO(virtio.RegMagicValue, p)
		if !bytes.Equal(p, make([]byte, width)) {
			t.Errorf("read of %d bytes gave % x", width, p)
		}
		d.MMIO.WriteMMIO(virtio.RegStatus, make([]byte, width))
	}
	d.MMIO.WriteMMIO(virtio.RegStatus+2, make([]byte, 4))
	if got := d.Status(); got != 15 {
		t.Errorf("status %#x: an odd write got through", got)
	}
	d.Write32(virtio.RegQueueNotify, 0xffffffff)
}

// TestResetWhileServing resets from "a vCPU" while the device is busy: the write returns only when it is not.
func TestResetWhileServing(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			e := newEcho()
			e.hold, e.deaf = make(chan struct{}), deaf
			d := virtiotest.New(t, e, virtiotest.Options{})
			q := d.Queue(0)
			q.Add([][]byte{[]byte("x")}, 1)
			q.Kick()
			<-e.entered
			done := make(chan struct{})
			go func() {
				d.Write32(virtio.RegStatus, 0)
				close(done)
			}()
			if deaf {
				select {
				case <-done:
					t.Fatal("the reset did not wait for the device")
				case <-time.After(20 * time.Millisecond):
				}
				if d.Read32(virtio.RegMagicValue) != virtio.MagicValue {
					t.Error("registers cannot be read during a reset")
				}
				d.Write32(virtio.RegQueueNotify, 0)
				close(e.hold)
			}
			select {
			case <-done:
			case <-time.After(virtiotest.Timeout):
				t.Fatal("the reset hangs")
			}
			if !deaf {
				if got := q.UsedIdx(); got != 0 {
					t.Errorf("used index %d of a cancelled request", got)
				}
				close(e.hold)
			}
			d.Init()
			if r := d.Queue(0).Do([][]byte{[]byte("y")}, 1); string(r.Bytes()) != "y" {
				t.Errorf("echo after the reset: %q", r.Bytes())
			}
		})
	}
}

// TestConfigChangeDuringReset: an interrupt of before the reset does not show after it, however close they are.
func TestConfigChangeDuringReset(t *testing.T) {
	e := newEcho()
	d := virtiotest.New(t, e, virtiotest.Options{Manual: true})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				e.transport.ConfigChanged()
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	for range 200_000 {
		d.Write32(virtio.RegStatus, 0)
		for range 5 {
			if got := d.Read32(virtio.RegInterruptStatus); got != 0 {
				t.Fatalf("InterruptStatus %#x after a reset", got)
			}
		}
		d.Write32(virtio.RegStatus, virtio.StatusAcknowledge|virtio.StatusDriver)
		d.Negotiate(virtio.FeatureVersion1)
		d.Write32(virtio.RegStatus, 15)
	}
}

// TestQueueSelDuringRequest moves the selector while a request runs (design: day-one test 6).
func TestQueueSelDuringRequest(t *testing.T) {
	e := newEcho()
	e.hold = make(chan struct{})
	d := virtiotest.New(t, e, virtiotest.Options{})
	r := d.Queue(0).Add([][]byte{[]byte("x")}, 1)
	d.Queue(0).Kick()
	<-e.entered
	d.Write32(virtio.RegQueueSel, 77)
	d.Write32(virtio.RegQueueSize, 3)
	close(e.hold)
	d.Queue(0).Wait(r)
	if string(r.Bytes()) != "x" {
		t.Errorf("echo %q", r.Bytes())
	}
}

// TestRestartWorkers stops and starts the queues' goroutines under load, as a snapshot does.
func TestRestartWorkers(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{})
	for i := range 200 {
		r := d.Queue(0).Add([][]byte{[]byte("x")}, 1)
		if i%3 == 0 {
			d.StopWorkers()
		}
		d.Queue(0).Kick()
		if i%2 == 0 {
			d.StopWorkers()
			d.StartWorkers()
		} else if i%3 == 0 {
			d.StartWorkers()
		}
		d.Queue(0).Wait(r)
	}
}

func TestServeQueueTwice(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{})
	d.Queue(0).Do([][]byte{[]byte("x")}, 1) // its goroutine is there
	k := virtio.NewChanKick()
	defer k.Close()
	if err := d.MMIO.ServeQueue(context.Background(), 0, k); err == nil {
		t.Error("a queue with two goroutines")
	}
	if err := d.MMIO.ServeQueue(context.Background(), 2, k); err == nil {
		t.Error("queue 2 of 2 was served")
	}
}

func TestStateRoundTrip(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{})
	for range 300 {
		d.Queue(0).Do([][]byte{[]byte("x")}, 1)
	}
	d.StopWorkers()
	state, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	d.Move(newEcho())
	if err := d.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	again, err := d.MMIO.MarshalBinary()
	if err != nil || !bytes.Equal(state, again) {
		t.Errorf("state changed on the way (%v):\n% x\n% x", err, state, again)
	}
	d.StartWorkers()
	for range 300 {
		if r := d.Queue(0).Do([][]byte{[]byte("y")}, 1); string(r.Bytes()) != "y" {
			t.Fatalf("echo after a restore: %q", r.Bytes())
		}
	}
}

func TestStateRefusesChainsInFlight(t *testing.T) {
	e := newEcho()
	e.hold = make(chan struct{})
	d := virtiotest.New(t, e, virtiotest.Options{})
	d.Queue(0).Add([][]byte{[]byte("x")}, 1)
	d.Queue(0).Kick()
	<-e.entered
	d.StopWorkers()
	if _, err := d.MMIO.MarshalBinary(); err == nil {
		t.Error("a request in flight would be lost")
	}
}

// FuzzState feeds state that came from anywhere: an error or a device that works, never a panic.
func FuzzState(f *testing.F) {
	d := virtiotest.New(f, newEcho(), virtiotest.Options{Manual: true})
	d.Queue(0).Do([][]byte{[]byte("x")}, 1)
	good, err := d.MMIO.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		d := virtiotest.New(t, newEcho(), virtiotest.Options{Manual: true, Uninitialised: true, RAM: 64 << 10})
		if d.MMIO.UnmarshalBinary(p) == nil {
			out, err := d.MMIO.MarshalBinary()
			if err != nil || !bytes.Equal(out, p) {
				t.Errorf("accepted state comes back differently (%v):\n% x\n% x", err, p, out)
			}
		}
		for i := range d.MMIO.Queues() {
			if err := d.MMIO.Serve(context.Background(), i); err != nil {
				t.Error(err)
			}
		}
		d.Init()
		if r := d.Queue(0).Do([][]byte{[]byte("x")}, 1); string(r.Bytes()) != "x" {
			t.Errorf("echo %q", r.Bytes())
		}
	})
}

func FuzzEcho(f *testing.F) {
	virtiotest.FuzzDevice(f, func(testing.TB) virtio.Device {
		e := newEcho()
		e.fill = true // each byte that it may write to
		return e
	}, virtiotest.FuzzOptions{Requests: [][]byte{[]byte("request"), bytes.Repeat([]byte("long"), 150)}})
}

// TestLateNotification: a goroutine that was about to notify the driver does so only after a reset, while nobody is there to acknowledge it.
func TestLateNotification(t *testing.T) {
	d := virtiotest.New(t, newEcho(), virtiotest.Options{})
	d.Prepare()
	virtio.NotifyUsed(d.MMIO)
	d.DriverOK()
	before := d.Interrupts()
	d.Queue(0).Add([][]byte{[]byte("x")}, 1)
	d.Queue(0).Kick()
	virtiotest.Eventually(t, "the interrupt of the first request", func() bool { return d.Interrupts() > before })
}
