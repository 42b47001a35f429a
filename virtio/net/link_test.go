package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// fakeLink is a link whose other end is the test.
type fakeLink struct {
	features uint64
	pairs    int
	wait     bool // Receive waits, as a TAP's does

	mu       sync.Mutex
	waiting  [maxPairs]chan struct{} // closed when there is a frame
	incoming [maxPairs][][]byte
	sent     [maxPairs][][]byte
	sendErr  error
	recvErr  []error // of the next calls of Receive
	offloads []uint64
	filters  []Filter
	received int    // calls
	offered  int    // buffers, to the latest call of Receive
	acted    func() // called by Send and SetFilter
}

// allOffloads is what a TAP of a current kernel can do.
const allOffloads = OffloadFeatures

func (l *fakeLink) Features() uint64 { return l.features }
func (l *fakeLink) Pairs() int       { return max(l.pairs, 1) }

// arrive puts a frame behind an empty header into the link.
func (l *fakeLink) arrive(pair int, frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incoming[pair] = append(l.incoming[pair], append(make([]byte, HeaderSize), frame...))
	if l.waiting[pair] != nil {
		close(l.waiting[pair])
		l.waiting[pair] = nil
	}
}

func (l *fakeLink) take(pair int) ([]byte, chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received++
	if len(l.recvErr) > 0 {
		err := l.recvErr[0]
		l.recvErr = l.recvErr[1:]
		return nil, nil, err
	}
	if q := l.incoming[pair]; len(q) > 0 {
		l.incoming[pair] = q[1:]
		return q[0], nil, nil
	}
	if !l.wait {
		return nil, nil, ErrNoFrame
	}
	if l.waiting[pair] == nil {
		l.waiting[pair] = make(chan struct{})
	}
	return nil, l.waiting[pair], nil
}

func (l *fakeLink) Receive(ctx context.Context, pair int, buffers [][]byte, idle func()) (int, error) {
	l.mu.Lock()
	l.offered = len(buffers)
	l.mu.Unlock()
	for {
		p, wait, err := l.take(pair)
		switch {
		case err != nil:
			return 0, err
		case p != nil:
			virtio.CopyTo(buffers, p)
			return len(p), nil
		}
		idle()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (l *fakeLink) Send(_ context.Context, pair int, buffers [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acted != nil {
		l.acted()
	}
	if l.sendErr != nil {
		return l.sendErr
	}
	l.sent[pair] = append(l.sent[pair], bytes.Join(buffers, nil))
	return nil
}

func (l *fakeLink) SetOffloads(features uint64) error {
	l.offloads = append(l.offloads, features)
	return nil
}

func (l *fakeLink) SetFilter(f Filter) error {
	l.filters = append(l.filters, f)
	if l.acted != nil {
		l.acted()
	}
	return nil
}

func (l *fakeLink) frames(pair int) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[pair]
}

var testMAC = MAC{0x02, 0, 0, 0, 0, 1}

func newDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	if cfg.MAC == (MAC{}) {
		cfg.MAC = testMAC
	}
	if cfg.Link == nil {
		cfg.Link = &fakeLink{features: allOffloads}
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// guest is a driver of the device.
type guest struct {
	*virtiotest.Driver
	dev  *Device
	link *fakeLink
}

func newGuest(t testing.TB, cfg Config, opts virtiotest.Options) *guest {
	t.Helper()
	dev := newDevice(t, cfg)
	return &guest{virtiotest.New(t, dev, opts), dev, dev.link.(*fakeLink)}
}

// frame returns n bytes that differ from those of other frames, with a good Ethernet header.
func frame(n, seed int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8 + seed)
	}
	copy(p, testMAC[:])
	binary.BigEndian.PutUint16(p[12:], 0x88b5) // for experiments
	return p
}

// command sends a command and returns the answer.
func (g *guest) command(class, cmd byte, args ...byte) byte {
	g.T.Helper()
	q := g.Queue(len(g.Queues) - 1)
	if g.Features&FeatureMultiQueue == 0 {
		q = g.Queue(2)
	}
	r := q.Do([][]byte{{class, cmd}, append(args, 0)[:max(len(args), 1)]}, 1)
	if r.Written != 1 {
		g.T.Fatalf("command %d.%d: %d bytes of answer", class, cmd, r.Written)
	}
	return r.Bytes()[0]
}

var errTest = errors.New("test")
