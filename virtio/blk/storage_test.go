package blk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/govmm/govmm/virtio/virtiotest"
)

// memory is a Storage with everything but vectors. It remembers what it was asked to do, and fails the test when that
// lies outside of it.
type memory struct {
	t        testing.TB
	mu       sync.Mutex
	data     []byte
	calls    []string
	fail     error                  // what every call returns, having done nothing
	before   func(operation string) // called at the start of each call, without mu; may block
	readOnly bool
}

// newMemory has sectors that begin with their number and end with 0xee.
func newMemory(t testing.TB, sectors int) *memory {
	m := &memory{t: t, data: bytes.Repeat([]byte{0xee}, sectors*SectorSize)}
	for i := range sectors {
		binary.LittleEndian.PutUint32(m.data[i*SectorSize:], uint32(i))
	}
	return m
}

func (m *memory) call(operation string, writes bool, off, n int64, f func(p []byte)) error {
	if m.before != nil {
		m.before(operation)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf("%s %d+%d", operation, off, n))
	if off < 0 || n < 0 || off > int64(len(m.data))-n || writes && m.readOnly {
		m.t.Errorf("storage of %d bytes, read-only %v: %s %d+%d", len(m.data), m.readOnly, operation, off, n)
		return io.ErrUnexpectedEOF
	}
	if m.fail != nil {
		return m.fail
	}
	f(m.data[off : off+n])
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if err := m.call("read", false, off, int64(len(p)), func(b []byte) { copy(p, b) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.call("write", true, off, int64(len(p)), func(b []byte) { copy(b, p) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

func (m *memory) Flush() error { return m.call("flush", false, 0, 0, func([]byte) {}) }

func (m *memory) Discard(off, n int64) error {
	return m.call("discard", true, off, n, func(b []byte) { copy(b, bytes.Repeat([]byte{0xdd}, len(b))) })
}

func (m *memory) WriteZeroes(off, n int64, unmap bool) error {
	return m.call(fmt.Sprintf("zero(%v)", unmap), true, off, n, func(b []byte) { clear(b) })
}

func (m *memory) sector(i, n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data[i*SectorSize : (i+n)*SectorSize])
}

// wantCalls compares what was called since the last time.
func (m *memory) wantCalls(want ...string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.calls, want) {
		m.t.Errorf("the storage was asked for %q, want %q", m.calls, want)
	}
	m.calls = nil
}

// vector is memory that moves several buffers at once.
type vector struct{ *memory }

func (v vector) ReadVector(buffers [][]byte, off int64) error {
	return v.call(fmt.Sprintf("read[%d]", len(buffers)), false, off, total(buffers), func(b []byte) {
		for _, p := range buffers {
			b = b[copy(p, b):]
		}
	})
}

func (v vector) WriteVector(buffers [][]byte, off int64) error {
	return v.call(fmt.Sprintf("write[%d]", len(buffers)), true, off, total(buffers), func(b []byte) {
		for _, p := range buffers {
			b = b[copy(b, p):]
		}
	})
}

func total(buffers [][]byte) int64 {
	var n int64
	for _, b := range buffers {
		n += int64(len(b))
	}
	return n
}

// guest is a driver with a block device.
type guest struct {
	*virtiotest.Driver
	disk *memory
}

func newDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newGuest has a disk of 64 sectors unless cfg.Storage says otherwise.
func newGuest(t testing.TB, cfg Config, opts virtiotest.Options) *guest {
	t.Helper()
	g := &guest{}
	switch s := cfg.Storage.(type) {
	case nil:
		g.disk = newMemory(t, 64)
		g.disk.readOnly = cfg.ReadOnly
		cfg.Storage = g.disk
	case *memory:
		g.disk = s
	case vector:
		g.disk = s.memory
	}
	g.Driver = virtiotest.New(t, newDevice(t, cfg), opts)
	return g
}

func header(kind uint32, sector uint64) []byte {
	p := binary.LittleEndian.AppendUint32(nil, kind)
	p = binary.LittleEndian.AppendUint32(p, 0xffffffff) // reserved: ignored
	return binary.LittleEndian.AppendUint64(p, sector)
}

func segments(triples ...uint64) []byte {
	var p []byte
	for ; len(triples) > 0; triples = triples[3:] {
		p = binary.LittleEndian.AppendUint64(p, triples[0])
		p = binary.LittleEndian.AppendUint32(p, uint32(triples[1]))
		p = binary.LittleEndian.AppendUint32(p, uint32(triples[2]))
	}
	return p
}

// do carries out a request whose writable part has room bytes of data, and returns them and the status. It asserts
// that the used length never counts what was not written.
func (g *guest) do(kind uint32, sector uint64, data []byte, room int) ([]byte, byte) {
	g.T.Helper()
	readable := [][]byte{header(kind, sector)}
	if len(data) > 0 {
		readable = append(readable, data)
	}
	writable := []int{1}
	if room > 0 {
		writable = []int{room, 1}
	}
	return g.result(g.Queue(0).Do(readable, writable...))
}

// result splits the writable part of a request that is done. An answer of OK to a request with data for the driver is
// complete, so that the used length has the status too.
func (g *guest) result(r *virtiotest.Request) ([]byte, byte) {
	g.T.Helper()
	p := r.Room()
	if len(p) == 1 && r.Written != 1 {
		g.T.Errorf("used length %d, want that of the status", r.Written)
	}
	return p[:len(p)-1], p[len(p)-1]
}

// want carries out a request and compares its status.
func (g *guest) want(status byte, kind uint32, sector uint64, data []byte, room int) []byte {
	g.T.Helper()
	p, got := g.do(kind, sector, data, room)
	if got != status {
		g.T.Errorf("status %d of request %d at sector %d with %d and %d bytes, want %d", got, kind, sector, len(data), room, status)
	}
	return p
}
