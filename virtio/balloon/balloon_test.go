package balloon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// ranges records what is released.
type ranges struct {
	mu  sync.Mutex
	got []guestmem.Region
	err error
}

func (r *ranges) Release(a guestmem.Addr, n uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, guestmem.Region{Base: a, Size: n})
	return r.err
}

func (r *ranges) take() []guestmem.Region {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func pfns(numbers ...uint32) (p []byte) {
	for _, n := range numbers {
		p = binary.LittleEndian.AppendUint32(p, n)
	}
	return p
}

func TestInflate(t *testing.T) {
	many := make([]uint32, maxPFNs+5)
	for i := range many {
		many[i] = uint32(i)
	}
	for _, tt := range []struct {
		name    string
		request []byte
		want    []guestmem.Region
	}{
		{"one page", pfns(5), []guestmem.Region{{Base: 0x5000, Size: 0x1000}}},
		{"upwards", pfns(5, 6, 7), []guestmem.Region{{Base: 0x5000, Size: 0x3000}}},
		{"downwards", pfns(7, 6, 5), []guestmem.Region{{Base: 0x5000, Size: 0x3000}}},
		{"both ways", pfns(6, 7, 5), []guestmem.Region{{Base: 0x5000, Size: 0x3000}}},
		{"apart", pfns(9, 2), []guestmem.Region{{Base: 0x9000, Size: 0x1000}, {Base: 0x2000, Size: 0x1000}}},
		{"the same twice", pfns(3, 3), []guestmem.Region{{Base: 0x3000, Size: 0x1000}, {Base: 0x3000, Size: 0x1000}}},
		{"the last frame and the first", pfns(1<<32-1, 0), []guestmem.Region{{Base: 0xffff_ffff_000, Size: 0x1000}, {Base: 0, Size: 0x1000}}},
		{"half a number", pfns(4)[:3], nil},
		{"a number and a half", pfns(4, 5)[:6], []guestmem.Region{{Base: 0x4000, Size: 0x1000}}},
		{"more than one request may have", pfns(many...), []guestmem.Region{{Base: 0, Size: maxPFNs * 0x1000}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := &ranges{}
			d := virtiotest.New(t, New(Config{Backend: backend}), virtiotest.Options{})
			if r := d.Queue(inflateQueue).Do([][]byte{tt.request}); r.Written != 0 {
				t.Errorf("%d bytes written", r.Written)
			}
			if got := backend.take(); !slices.Equal(got, tt.want) {
				t.Errorf("released %x, want %x", got, tt.want)
			}
			d.Queue(deflateQueue).Do([][]byte{tt.request})
			if got := backend.take(); got != nil {
				t.Errorf("deflation released %x", got)
			}
		})
	}
}

// TestReport has the free pages themselves released: on queue 3, as Linux counts, and on 4, as the specification does,
// and without statistics on 2.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		queue   int
		without uint64
		want    bool
	}{
		{3, 0, true}, {4, 0, true}, {2, FeatureStats, true}, {3, FeatureReporting, false}, {2, FeatureStats | FeatureReporting, false},
	} {
		backend := &ranges{}
		d := virtiotest.New(t, New(Config{Backend: backend}), virtiotest.Options{Without: tt.without})
		r := d.Queue(tt.queue).Do(nil, 8192, 4096)
		if r.Written != 0 {
			t.Errorf("%d bytes written", r.Written)
		}
		got := backend.take()
		if !tt.want {
			if got != nil {
				t.Errorf("queue %d without %#x: released %x", tt.queue, tt.without, got)
			}
			continue
		}
		if len(got) != 2 || got[0].Size != 8192 || got[1].Size != 4096 || got[0].Base < virtiotest.RAMBase ||
			got[1].End() > virtiotest.RAMBase+guestmem.Addr(len(d.RAM)) {
			t.Errorf("queue %d: released %x, want 8192 and 4096 bytes of RAM", tt.queue, got)
		}
	}
}

func TestBackendRefuses(t *testing.T) {
	backend := &ranges{err: guestmem.ErrOutOfRange}
	d := virtiotest.New(t, New(Config{Backend: backend}), virtiotest.Options{})
	d.Queue(inflateQueue).Do([][]byte{pfns(1<<32 - 1)})
	if d.Queue(inflateQueue).Do([][]byte{pfns(1, 9)}); len(backend.take()) != 3 {
		t.Error("a range that is no RAM stopped the balloon")
	}
	if got := d.Status(); got&virtio.StatusNeedsReset != 0 {
		t.Errorf("status %#x", got)
	}
}

func TestTarget(t *testing.T) {
	dev := New(Config{Backend: &ranges{}})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	dev.SetTarget(5 << 20)
	if got := d.WaitInterrupt(); got != virtio.InterruptConfig {
		t.Errorf("interrupt status %#x", got)
	}
	if got := binary.LittleEndian.Uint32(d.ReadConfig(0, 4)); got != 1280 {
		t.Errorf("num_pages is %d, want 1280", got)
	}
	before := d.Interrupts()
	dev.SetTarget(5 << 20)
	if d.Interrupts() != before {
		t.Error("an interrupt for the same target")
	}
	d.Write32(virtio.RegConfig+configActual, 1280)
	if got := dev.Size(); got != 5<<20 {
		t.Errorf("size %d after the driver said 1280 pages", got)
	}
	d.Write32(virtio.RegConfig, 7)
	d.MMIO.WriteMMIO(virtio.RegConfig+configActual+1, []byte{1})
	if got := binary.LittleEndian.Uint32(d.ReadConfig(0, 4)); got != 1280 || dev.Size() != 5<<20 {
		t.Errorf("the driver wrote to num_pages, %d, or part of actual, %d bytes", got, dev.Size())
	}
	d.Reset()
	if dev.Size() != 0 {
		t.Error("a balloon without a driver has pages")
	}
	dev.SetTarget(1 << 62)
	if got := binary.LittleEndian.Uint32(d.ReadConfig(0, 4)); got != 1<<32-1 {
		t.Errorf("num_pages is %d for all there could be", got)
	}
}

func stat(tag uint16, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), v)
}

// answer gives the device statistics of its own whenever the buffer comes back, as Linux does; it returns how often.
func answer(d *virtiotest.Driver, rounds int) {
	q := d.Queue(statsQueue)
	for i := range rounds {
		r := q.Add([][]byte{slices.Concat(stat(tagTotal, 512), stat(77, 1), stat(tagFree, uint64(i)), stat(tagAvailable, 9))})
		q.Kick()
		q.Wait(r)
	}
	q.Add([][]byte{stat(tagFree, 1000)})
	q.Kick()
}

func TestStats(t *testing.T) {
	dev := New(Config{Backend: &ranges{}})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	for range 3 {
		got := make(chan Stats)
		go func() {
			s, err := dev.Stats(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- s
		}()
		answer(d, statsRounds)
		if s := <-got; s != (Stats{Total: 512, Free: 1, Available: 9}) {
			t.Errorf("%+v, want what the driver said last", s)
		}
		// Nobody asks: the next buffer stays where it is, so that the state can be saved.
		d.StopWorkers()
		if _, err := d.MMIO.MarshalBinary(); err != nil {
			t.Error(err)
		}
		d.Init()
		d.StartWorkers()
	}
}

func TestStatsWithoutDriver(t *testing.T) {
	dev := New(Config{Backend: &ranges{}})
	d := virtiotest.New(t, dev, virtiotest.Options{Without: FeatureStats, Uninitialised: true})
	for range 2 {
		if _, err := dev.Stats(t.Context()); !errors.Is(err, ErrNoStats) {
			t.Errorf("%v, want ErrNoStats", err)
		}
		d.Init()
	}
}

// TestStatsUnanswered: neither a driver that does not answer nor a reset leaves anybody waiting.
func TestStatsUnanswered(t *testing.T) {
	dev := New(Config{Backend: &ranges{}})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := dev.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want a deadline", err)
	}
	done := make(chan error)
	go func() {
		_, err := dev.Stats(context.Background())
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	d.Reset()
	if err := <-done; !errors.Is(err, ErrNoStats) {
		t.Errorf("%v after a reset", err)
	}
}

func TestStateRoundTrip(t *testing.T) {
	dev := New(Config{Backend: &ranges{}})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	dev.SetTarget(3 << 20)
	d.Write32(virtio.RegConfig+configActual, 100)
	d.StopWorkers()
	state, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	backend := &ranges{}
	dev = New(Config{Backend: backend})
	d.Move(dev)
	if err := d.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	d.StartWorkers()
	d.Queue(inflateQueue).Do([][]byte{pfns(8)})
	if got := d.ReadConfig(0, 8); !bytes.Equal(got, pfns(768, 100)) || len(backend.take()) != 1 {
		t.Errorf("after a restore the configuration is % x", got)
	}
	for _, bad := range [][]byte{nil, {stateVersion}, append([]byte{9}, make([]byte, 8)...), append([]byte{stateVersion}, make([]byte, 9)...)} {
		if dev.UnmarshalState(bad) == nil {
			t.Errorf("state % x was accepted", bad)
		}
	}
}

// fuzzBackend accepts all that is below 16 TiB, as page frame numbers are.
type fuzzBackend struct{ t testing.TB }

func (b fuzzBackend) Release(a guestmem.Addr, n uint64) error {
	if end := uint64(a) + n; n == 0 || end > 1<<44 {
		b.t.Fatalf("%#x+%#x released", uint64(a), n)
	}
	return guestmem.ErrOutOfRange
}

func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device { return New(Config{Backend: fuzzBackend{t}}) }, virtiotest.FuzzOptions{
		Requests: [][]byte{pfns(0x100, 0x101, 0x102), pfns(1<<32-1, 0), stat(tagFree, 1<<20)},
		Host: func(dev virtio.Device, p []byte) {
			b := dev.(*Device)
			b.SetTarget(uint64(len(p)) << 12)
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			_, _ = b.Stats(ended)
		},
	})
}
