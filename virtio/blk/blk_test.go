package blk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// sized is a Storage that only has a size.
type sized struct {
	Storage
	n int64
}

func (s sized) Size() int64 { return s.n }

func TestNewRefuses(t *testing.T) {
	ok := sized{n: 1 << 20}
	for want, cfg := range map[string]Config{
		"no storage":           {},
		"longer than 20 bytes": {Storage: ok, Serial: "twenty-one characters"},
		"block size 256":       {Storage: ok, BlockSize: 256},
		"block size 1000":      {Storage: ok, BlockSize: 1000},
		"65 queues":            {Storage: ok, Queues: 65},
		"-1 queues":            {Storage: ok, Queues: -1},
		"storage of -5 bytes":  {Storage: sized{n: -5}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestConfigSpace(t *testing.T) {
	m := newMemory(t, 1)
	m.data = make([]byte, 5*SectorSize+511)
	for _, tt := range []struct {
		name  string
		cfg   Config
		words map[uint64]uint32 // by offset (virtio 1.2 §5.2.4); the others are 0
	}{
		{"bare", Config{Storage: bare{m}}, map[uint64]uint32{0: 5, 12: 254, 20: 512}},
		{"large", Config{Storage: bare{sized{n: 3 << 41}}}, map[uint64]uint32{4: 3, 12: 254, 20: 512}},
		{"read-only", Config{Storage: m, ReadOnly: true}, map[uint64]uint32{0: 5, 12: 254, 20: 512}},
		{"full", Config{Storage: m, BlockSize: 4096, Queues: 3}, map[uint64]uint32{
			0: 5, 12: 254, 20: 4096, 32: 3 << 16, 36: 1 << 22, 40: 16, 44: 8, 48: 1 << 17, 52: 16, 56: 1,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := virtiotest.New(t, newDevice(t, tt.cfg), virtiotest.Options{})
			if got := d.Read32(virtio.RegDeviceID); got != 2 {
				t.Errorf("device ID %d", got)
			}
			got := d.ReadConfig(0, 72)
			d.Write32(virtio.RegConfig, 0xffffffff) // nothing is writable
			if again := d.ReadConfig(0, 72); !bytes.Equal(got, again) {
				t.Errorf("the driver changed % x to % x", got, again)
			}
			for off := uint64(0); off < 72; off += 4 {
				if v := binary.LittleEndian.Uint32(got[off:]); v != tt.words[off] {
					t.Errorf("offset %d is %#x, want %#x", off, v, tt.words[off])
				}
			}
		})
	}
}

// TestLargestRange: more sectors than the configuration space allows are refused, even if they are on the disk.
func TestLargestRange(t *testing.T) {
	for _, tt := range []struct {
		kind uint32
		most uint64
	}{{typeDiscard, maxDiscard}, {typeWriteZeroes, maxZeroes}} {
		s := &clearer{sized: sized{n: 1 << 40}}
		g := newGuest(t, Config{Storage: s}, virtiotest.Options{})
		g.want(statusOK, tt.kind, 0, segments(8, tt.most, 0), 0)
		g.want(statusIOErr, tt.kind, 0, segments(8, tt.most+1, 0), 0)
		if want := int64(tt.most * SectorSize); s.cleared != want {
			t.Errorf("type %d: %d bytes cleared, want %d", tt.kind, s.cleared, want)
		}
	}
}

// clearer counts the bytes that are cleared.
type clearer struct {
	sized
	cleared int64
}

func (c *clearer) Discard(_, n int64) error             { c.cleared += n; return nil }
func (c *clearer) WriteZeroes(_, n int64, _ bool) error { c.cleared += n; return nil }

// TestQueues: while one queue waits for the storage the others go on.
func TestQueues(t *testing.T) {
	m := newMemory(t, 64)
	slow, release := make(chan struct{}), make(chan struct{})
	m.before = func(operation string) {
		if operation == "flush" {
			close(slow)
			<-release
		}
	}
	g := newGuest(t, Config{Storage: m, Queues: 4}, virtiotest.Options{})
	if len(g.Queues) != 4 || g.Features&FeatureMultiQueue == 0 {
		t.Fatalf("%d queues, features %#x", len(g.Queues), g.Features)
	}
	flush := g.Queue(2).Add([][]byte{header(typeFlush, 0)}, 1)
	g.Queue(2).Kick()
	<-slow
	for round := range 20 {
		var requests []*virtiotest.Request
		for _, i := range []int{0, 1, 3} {
			q := g.Queue(i)
			requests = append(requests, q.Add([][]byte{header(typeOut, uint64(i)), bytes.Repeat([]byte{byte(i + round)}, 512)}, 1))
			q.Kick()
		}
		for n, i := range []int{0, 1, 3} {
			g.Queue(i).Wait(requests[n])
			if _, status := g.result(requests[n]); status != statusOK || m.sector(i, 1)[77] != byte(i+round) {
				t.Errorf("queue %d: status %d", i, status)
			}
		}
	}
	if g.Queue(2).Reap(); flush.Done {
		t.Error("the flush is done before the storage is")
	}
	close(release)
	g.Queue(2).Wait(flush)
}

// TestInOrder: requests of one queue are carried out in order, so that the last write wins.
func TestInOrder(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	q := g.Queue(0)
	var last *virtiotest.Request
	for i := range 20 {
		last = q.Add([][]byte{header(typeOut, 5), bytes.Repeat([]byte{byte(i)}, 512)}, 1)
	}
	q.Kick()
	q.Wait(last)
	if got := g.disk.sector(5, 1)[9]; got != 19 {
		t.Errorf("write %d won", got)
	}
}

// TestLimit: all queues together move no more than they may, every request is carried out, and a reset does not wait.
func TestLimit(t *testing.T) {
	const rate = 1 << 20
	limit := ratelimit.New(ratelimit.Config{Bytes: ratelimit.Rate{PerSecond: rate, Burst: 4096}})
	g := newGuest(t, Config{Storage: newMemory(t, 256), Queues: 2, Limit: limit}, virtiotest.Options{})
	began := time.Now()
	for i := range 30 {
		g.Queue(i%2).Do([][]byte{header(typeOut, 0), pattern(8192)}, 1)
	}
	// The last request is paid for by the next one.
	if took, least := time.Since(began), time.Duration(29*8192-4096)*time.Second/rate; took < least {
		t.Errorf("30 writes took %v, at least %v was due", took, least)
	}
	limit.Charge(100 << 20)
	g.Queue(0).Add([][]byte{header(typeFlush, 0)}, 1)
	g.Queue(0).Kick()
	began = time.Now()
	if g.Reset(); time.Since(began) > 10*time.Second {
		t.Errorf("a reset took %v", time.Since(began))
	}
}

// TestSlowStorage: the driver hears of a request that is done although the next one is not.
func TestSlowStorage(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx} {
		t.Run(fmt.Sprintf("without %#x", without), func(t *testing.T) {
			m := newMemory(t, 64)
			gate := make(chan struct{})
			m.before = func(string) { <-gate }
			g := newGuest(t, Config{Storage: m}, virtiotest.Options{Without: without})
			q := g.Queue(0)
			first, second := q.Add([][]byte{header(typeIn, 7)}, 512, 1), q.Add([][]byte{header(typeFlush, 0)}, 1)
			q.Kick()
			gate <- struct{}{}
			g.WaitInterrupt()
			if q.Reap(); !first.Done || second.Done {
				t.Errorf("first request done: %v, second: %v", first.Done, second.Done)
			}
			gate <- struct{}{}
			q.Wait(second)
		})
	}
}

// TestResetWithSlowStorage: a reset waits for the request that is being carried out, does not begin the next one, and
// leaves guest memory alone from then on.
func TestResetWithSlowStorage(t *testing.T) {
	m := newMemory(t, 64)
	entered, release := make(chan struct{}), make(chan struct{})
	m.before = func(operation string) {
		if operation == "read" {
			close(entered)
			<-release
		}
	}
	g := newGuest(t, Config{Storage: m}, virtiotest.Options{})
	q := g.Queue(0)
	q.Add([][]byte{header(typeIn, 7)}, 512, 1)
	q.Add([][]byte{header(typeOut, 8), pattern(512)}, 1)
	q.Kick()
	<-entered
	finished := make(chan []byte)
	go func() {
		g.Write32(virtio.RegStatus, 0)
		finished <- bytes.Clone(g.RAM)
	}()
	virtiotest.Eventually(t, "the reset to begin", func() bool { return g.Read32(virtio.RegQueueReady) == 0 })
	select {
	case <-finished:
		t.Error("the reset did not wait for the request")
	default:
	}
	close(release)
	if !bytes.Equal(<-finished, g.RAM) {
		t.Error("guest memory changed after the reset")
	}
	m.wantCalls("read 3584+512")
	m.before = nil
	g.Init()
	g.want(statusOK, typeIn, 1, nil, 512)
}

func TestStateRoundTrip(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		m := newMemory(t, 64)
		cfg := Config{Storage: m, ReadOnly: readOnly, Queues: 2}
		g := newGuest(t, cfg, virtiotest.Options{})
		g.want(statusOK, typeIn, 1, nil, 512)
		g.StopWorkers()
		pending := []*virtiotest.Request{
			g.Queue(0).Add([][]byte{header(typeIn, 2)}, 512, 1), g.Queue(1).Add([][]byte{header(typeIn, 3)}, 512, 1),
		}
		state, err := g.MMIO.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		config := g.ReadConfig(0, 64)
		g.Move(newDevice(t, cfg))
		if err := g.MMIO.UnmarshalBinary(state); err != nil {
			t.Fatal(err)
		}
		if again, err := g.MMIO.MarshalBinary(); err != nil || !bytes.Equal(state, again) {
			t.Errorf("state % x became % x, %v", state, again, err)
		}
		if got := g.ReadConfig(0, 64); !bytes.Equal(got, config) {
			t.Errorf("configuration % x became % x", config, got)
		}
		m.wantCalls("read 512+512")
		g.StartWorkers()
		for i, r := range pending {
			g.Queue(i).Wait(r)
			if p, status := g.result(r); status != statusOK || !bytes.Equal(p, m.sector(2+i, 1)) {
				t.Errorf("a request from before the restore: status %d", status)
			}
		}
		if !readOnly { // what was negotiated before holds
			g.want(statusOK, typeDiscard, 0, segments(0, 1, 0), 0)
			g.want(statusOK, typeFlush, 0, nil, 0)
		}
	}
}

// TestStateOfAnotherDisk: a guest must not go on with a disk that is not what it knows.
func TestStateOfAnotherDisk(t *testing.T) {
	cfg := Config{Storage: newMemory(t, 64)}
	g := newGuest(t, cfg, virtiotest.Options{})
	g.StopWorkers()
	state, err := g.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for want, other := range map[string]Config{
		"64 sectors, this one has 63": {Storage: newMemory(t, 63)},
		"64 sectors, this one has 65": {Storage: newMemory(t, 65)},
		"features 0x130006244":        {Storage: cfg.Storage, ReadOnly: true},
		"1 queues, want 2":            {Storage: cfg.Storage, Queues: 2},
		"state of test: features":     {Storage: bare{cfg.Storage}},
	} {
		g.Move(newDevice(t, other))
		if err := g.MMIO.UnmarshalBinary(state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestBadState(t *testing.T) {
	d := newDevice(t, Config{Storage: newMemory(t, 64)})
	good, err := d.MarshalState()
	if err != nil || d.UnmarshalState(good) != nil {
		t.Fatalf("% x, %v, %v", good, err, d.UnmarshalState(good))
	}
	for n := range good {
		if d.UnmarshalState(good[:n]) == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 2
		if d.UnmarshalState(bad) == nil {
			t.Errorf("% x was accepted", bad)
		}
	}
	if d.UnmarshalState(append(good, 0)) == nil {
		t.Error("a byte too many was accepted")
	}
}
