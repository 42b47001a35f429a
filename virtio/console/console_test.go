package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// start runs both directions of dev until the test ends.
func start(t *testing.T, dev *Device) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := dev.RunInput(ctx); err != nil {
			t.Errorf("RunInput: %v", err)
		}
	})
	wg.Go(func() { dev.RunOutput(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// safeBuffer is a bytes.Buffer for two goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestOutputArrivesWhole(t *testing.T) {
	var out safeBuffer
	dev := New(Config{Out: &out})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	var want strings.Builder
	for i := range 2000 {
		line := strings.Repeat("x", i%700) + "\n"
		want.WriteString(line)
		d.Queue(transmitQueue).Do([][]byte{[]byte(line[:len(line)/2]), []byte(line[len(line)/2:])})
	}
	virtiotest.Eventually(t, "the output", func() bool { return len(out.String()) >= want.Len() })
	if out.String() != want.String() {
		t.Error("output is not what the guest wrote")
	}
}

// TestLastWords: what the guest wrote before the end is written although the VM is gone.
func TestLastWords(t *testing.T) {
	var out safeBuffer
	dev := New(Config{Out: &out})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	d.Queue(transmitQueue).Do([][]byte{[]byte("Kernel panic")})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dev.RunOutput(ctx)
	if got := out.String(); got != "Kernel panic" {
		t.Errorf("output %q", got)
	}
}

// TestInputBackPressure: far more input than the buffer holds waits for the guest's room and arrives in order.
func TestInputBackPressure(t *testing.T) {
	want := make([]byte, 10*inputBuffer)
	for i := range want {
		want[i] = byte(i * 7 / 3)
	}
	source := &countingReader{r: bytes.NewReader(want)}
	dev := New(Config{In: source})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	time.Sleep(20 * time.Millisecond)
	if n := source.count(); n > inputBuffer {
		t.Errorf("%d bytes were read while the guest took none", n)
	}
	var got []byte
	for len(got) < len(want) {
		got = append(got, d.Queue(receiveQueue).Do(nil, 100, 900).Bytes()...)
	}
	if !bytes.Equal(got, want) {
		t.Error("input is not what the host wrote")
	}
}

type countingReader struct {
	mu sync.Mutex
	r  io.Reader
	n  int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	return n, err
}

func (c *countingReader) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestBuffersWaitForInput: the driver gives buffers first, input comes later.
func TestBuffersWaitForInput(t *testing.T) {
	r, w := io.Pipe()
	dev := New(Config{In: r})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	t.Cleanup(func() { _ = w.Close() })
	q := d.Queue(receiveQueue)
	for range 50 {
		first, second := q.Add(nil, 64), q.Add(nil, 64)
		q.Kick()
		for _, r := range []*virtiotest.Request{first, second} {
			if _, err := w.Write([]byte("key")); err != nil {
				t.Fatal(err)
			}
			q.Wait(r)
			if got := string(r.Bytes()); got != "key" {
				t.Fatalf("input %q", got)
			}
		}
	}
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct {
	release chan struct{}
	safeBuffer
}

func (s *stuckWriter) Write(p []byte) (int, error) {
	<-s.release
	return s.safeBuffer.Write(p)
}

// TestStuckHost: a host that does not read costs the guest stallLimit, once, and bounded memory.
func TestStuckHost(t *testing.T) {
	out := &stuckWriter{release: make(chan struct{})}
	dev := New(Config{Out: out})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	began := time.Now()
	chunk := bytes.Repeat([]byte("a"), 32<<10)
	for range 100 {
		d.Queue(transmitQueue).Do([][]byte{chunk})
	}
	if took := time.Since(began); took > 8*stallLimit {
		t.Errorf("the guest waited %v for a host that does not read", took)
	}
	close(out.release)
	virtiotest.Eventually(t, "output after the stall", func() bool {
		d.Queue(transmitQueue).Do([][]byte{[]byte("END")})
		return strings.HasSuffix(out.String(), "END")
	})
	if n := len(out.String()); n > 3*outputBuffer {
		t.Errorf("%d bytes were kept", n)
	}
}

func TestResetDuringStall(t *testing.T) {
	out := &stuckWriter{release: make(chan struct{})}
	dev := New(Config{Out: out})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	t.Cleanup(func() { close(out.release) })
	for range 5 {
		q := d.Queue(transmitQueue)
		for range 30 {
			q.Add([][]byte{bytes.Repeat([]byte("a"), 32<<10)})
		}
		q.Kick()
		d.Init() // a vCPU writes 0 to the status
	}
}

func TestOutputFails(t *testing.T) {
	dev := New(Config{Out: failingWriter{}})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	start(t, dev)
	for range 200 {
		d.Queue(transmitQueue).Do([][]byte{make([]byte, 8<<10)})
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no") }

func TestResize(t *testing.T) {
	dev := New(Config{Cols: 80, Rows: 25})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	want := []byte{80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0}
	if got := d.ReadConfig(0, configSize); !bytes.Equal(got, want) {
		t.Errorf("configuration % x, want % x", got, want)
	}
	before := d.Read32(virtio.RegConfigGeneration)
	dev.Resize(300, 50)
	if got := d.WaitInterrupt(); got&virtio.InterruptConfig == 0 {
		t.Errorf("InterruptStatus %#x", got)
	}
	if got := d.ReadConfig(0, 4); !bytes.Equal(got, []byte{44, 1, 50, 0}) {
		t.Errorf("size % x", got)
	}
	if d.Read32(virtio.RegConfigGeneration) == before {
		t.Error("the generation did not change")
	}
	n := d.Interrupts()
	dev.Resize(300, 50)
	if d.Interrupts() != n {
		t.Error("an interrupt without a change")
	}
}

func TestEmergencyWrite(t *testing.T) {
	var out safeBuffer
	dev := New(Config{Out: &out})
	d := virtiotest.New(t, dev, virtiotest.Options{Uninitialised: true})
	start(t, dev)
	for _, c := range "oops" {
		d.Write32(virtio.RegConfig+configEmergency, uint32(c))
	}
	d.Write32(virtio.RegConfig, 0x12345678)
	virtiotest.Eventually(t, "the output", func() bool { return out.String() == "oops" })
	if got := d.ReadConfig(0, 4); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("the driver changed the size: % x", got)
	}
}

func TestStateRoundTrip(t *testing.T) {
	dev := New(Config{In: strings.NewReader("typed ahead")})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	if err := dev.RunInput(context.Background()); err != nil {
		t.Fatal(err)
	}
	d.Queue(receiveQueue).Do(nil, 6)
	d.StopWorkers()
	state, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	d.Move(New(Config{}))
	if err := d.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	d.StartWorkers()
	if got := string(d.Queue(receiveQueue).Do(nil, 64).Bytes()); got != "ahead" {
		t.Errorf("after a restore the guest reads %q", got)
	}
	for _, bad := range [][]byte{nil, {9}, make([]byte, inputBuffer+2)} {
		if len(bad) > 9 {
			bad[0] = stateVersion
		}
		if New(Config{}).UnmarshalState(bad) == nil {
			t.Errorf("state of %d bytes was accepted", len(bad))
		}
	}
}

func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(testing.TB) virtio.Device { return New(Config{Out: io.Discard}) }, virtiotest.FuzzOptions{
		Requests: [][]byte{[]byte("login: ")},
		Host: func(dev virtio.Device, p []byte) {
			c := dev.(*Device)
			if len(p) > 1 && p[0] == 'r' {
				c.Resize(uint16(p[1]), uint16(len(p)))
			}
			if c.buffered()+len(p) <= inputBuffer {
				c.deliverInput(p)
			}
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			c.RunOutput(ended)
		},
	})
}
