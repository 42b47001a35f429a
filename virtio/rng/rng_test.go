package rng

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// counter yields 0, 1, 2, ...
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n
		c.n++
	}
	return len(p), nil
}

func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		name     string
		writable []int
		want     int
	}{
		{"one byte", []int{1}, 1},
		{"several buffers", []int{3, 4096, 5000}, 9099},
		{"more than one request gets", []int{100 << 10, 100 << 10}, maxRequest},
	} {
		for _, source := range []io.Reader{&counter{}, iotest.OneByteReader(&counter{})} {
			t.Run(tt.name, func(t *testing.T) {
				d := virtiotest.New(t, New(source), virtiotest.Options{})
				r := d.Queue(0).Do(nil, tt.writable...)
				want := make([]byte, tt.want)
				_, _ = (&counter{}).Read(want)
				if !bytes.Equal(r.Bytes(), want) {
					t.Errorf("got %d bytes, want %d in the source's order", r.Written, tt.want)
				}
				if rest := r.Room()[tt.want:]; !bytes.Equal(rest, make([]byte, len(rest))) {
					t.Error("bytes were written beyond the used length")
				}
			})
		}
	}
}

func TestReadableOnly(t *testing.T) {
	d := virtiotest.New(t, New(&counter{}), virtiotest.Options{})
	if r := d.Queue(0).Do([][]byte{[]byte("abc")}); r.Written != 0 {
		t.Errorf("%d bytes written into a chain without room", r.Written)
	}
	if got := d.Status(); got&virtio.StatusNeedsReset != 0 {
		t.Errorf("status %#x", got)
	}
}

func TestSourceFails(t *testing.T) {
	d := virtiotest.New(t, New(iotest.ErrReader(errors.New("broken"))), virtiotest.Options{Manual: true})
	d.Queue(0).Add(nil, 8)
	d.Queue(0).Kick()
	if got := d.Status(); got&virtio.StatusNeedsReset == 0 {
		t.Errorf("status %#x: no randomness and the driver is not told", got)
	}
}

func TestStateRoundTrip(t *testing.T) {
	d := virtiotest.New(t, New(rand.Reader), virtiotest.Options{})
	d.Queue(0).Do(nil, 32)
	d.StopWorkers()
	state, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	d.Move(New(rand.Reader))
	if err := d.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	d.StartWorkers()
	if r := d.Queue(0).Do(nil, 32); r.Written != 32 || bytes.Equal(r.Bytes(), make([]byte, 32)) {
		t.Errorf("after a restore: % x", r.Bytes())
	}
}

func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(testing.TB) virtio.Device { return New(&counter{}) }, virtiotest.FuzzOptions{})
}
