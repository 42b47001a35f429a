package blk

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

func TestReadWrite(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct %v", direct), func(t *testing.T) {
			g := newGuest(t, Config{}, virtiotest.Options{Direct: direct})
			if got := g.want(statusOK, typeIn, 3, nil, 2*SectorSize); !bytes.Equal(got, g.disk.sector(3, 2)) {
				t.Errorf("read % x...", got[:8])
			}
			g.disk.wantCalls("read 1536+1024")
			data := pattern(3 * SectorSize)
			g.want(statusOK, typeOut, 61, data, 0) // up to the very end
			g.disk.wantCalls("write 31232+1536")
			if !bytes.Equal(g.disk.sector(61, 3), data) {
				t.Error("the data is not where it was written")
			}
			if got := g.want(statusOK, typeIn, 61, nil, 3*SectorSize); !bytes.Equal(got, data) {
				t.Error("what was written is not what is read")
			}
		})
	}
}

// layouts are ways to frame a request of a header, readable data, writable data and a status (virtio 1.2 §2.7.4: the
// device makes no assumption on the framing).
var layouts = []struct {
	name   string
	header []int // lengths of pieces of the readable part; the last one takes the rest
	room   []int // lengths of pieces of the writable part, but for the last
}{
	{"as Linux does", []int{16}, []int{1024}},
	{"header in two", []int{8, 8}, []int{1024}},
	{"header in bytes", []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{1024}},
	{"header and data together", nil, []int{1024}},
	{"header's end with data", []int{10}, []int{1024}},
	{"status with data", []int{16}, nil},
	{"status with the data's end", []int{16}, []int{1000}},
	{"data in uneven pieces", []int{16, 1, 511, 3, 500}, []int{1, 511, 3, 500}},
	{"empty buffers", []int{0, 16, 0, 512, 0}, []int{0, 512, 0, 512, 0}},
}

func pieces(p []byte, lengths []int) [][]byte {
	var out [][]byte
	for _, n := range lengths {
		n = min(n, len(p))
		out = append(out, p[:n])
		p = p[n:]
	}
	if len(p) > 0 {
		out = append(out, p)
	}
	return out
}

func TestFraming(t *testing.T) {
	for _, l := range layouts {
		for name, wrap := range map[string]func(*memory) Storage{
			"memory": func(m *memory) Storage { return m },
			"vector": func(m *memory) Storage { return vector{m} },
		} {
			for _, direct := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/direct %v", l.name, name, direct), func(t *testing.T) {
					g := newGuest(t, Config{Storage: wrap(newMemory(t, 8))}, virtiotest.Options{Direct: direct})
					data := pattern(1024)
					out := pieces(append(header(typeOut, 4), data...), l.header)
					if _, status := g.result(g.Queue(0).Do(out, 1)); status != statusOK {
						t.Fatalf("status %d of a write", status)
					}
					if !bytes.Equal(g.disk.sector(4, 2), data) {
						t.Error("the data is not where it was written")
					}
					room := []int{}
					rest := 1025
					for _, n := range l.room {
						room = append(room, n)
						rest -= n
					}
					r := g.Queue(0).Do(pieces(header(typeIn, 4), l.header), append(room, rest)...)
					if p, status := g.result(r); status != statusOK || !bytes.Equal(p, data) || r.Written != 1025 {
						t.Errorf("read: status %d, used length %d, data right: %v", status, r.Written, bytes.Equal(p, data))
					}
				})
			}
		}
	}
}

// TestVector: a storage that can gets all buffers at once, and its error arrives.
func TestVector(t *testing.T) {
	v := vector{newMemory(t, 16)}
	g := newGuest(t, Config{Storage: v}, virtiotest.Options{})
	q := g.Queue(0)
	q.Do([][]byte{header(typeIn, 1)}, 512, 1024, 1)
	v.wantCalls("read[2] 512+1536")
	q.Do([][]byte{header(typeOut, 2), pattern(512), pattern(512)}, 1)
	v.wantCalls("write[2] 1024+1024")
	q.Do([][]byte{header(typeOut, 2), pattern(512)}, 1) // one buffer needs none
	v.wantCalls("write 1024+512")
	v.fail = errors.New("broken")
	for _, r := range []*virtiotest.Request{
		q.Do([][]byte{header(typeIn, 1)}, 512, 512, 1), q.Do([][]byte{header(typeOut, 1), pattern(512), pattern(512)}, 1),
	} {
		if _, status := g.result(r); status != statusIOErr {
			t.Errorf("status %d", status)
		}
	}
}

// TestRanges are positions and lengths at and beyond the end of a disk of 64 sectors.
func TestRanges(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	for _, tt := range []struct {
		sector uint64
		length int
		status byte
	}{
		{0, 0, statusOK},
		{64, 0, statusOK},
		{63, 512, statusOK},
		{0, 64 * 512, statusOK},
		{65, 0, statusIOErr},
		{64, 512, statusIOErr},
		{63, 1024, statusIOErr},
		{0, 65 * 512, statusIOErr},
		{math.MaxUint64, 512, statusIOErr},
		{math.MaxUint64, 0, statusIOErr},
		{1<<55 - 1, 512, statusIOErr}, // MaxInt64 in bytes
		{1 << 55, 512, statusIOErr},   // 0 in bytes
		{1 << 54, 512, statusIOErr},   // negative
		{1<<55 + 1, 512, statusIOErr},
		{0, 1, statusIOErr},
		{0, 511, statusIOErr},
		{0, 513, statusIOErr},
		{63, 1000, statusIOErr},
	} {
		before := g.disk.sector(0, 64)
		g.want(tt.status, typeIn, tt.sector, nil, tt.length)
		g.want(tt.status, typeOut, tt.sector, pattern(tt.length), 0)
		if tt.status != statusOK && !bytes.Equal(before, g.disk.sector(0, 64)) {
			t.Errorf("sector %d, %d bytes: the disk changed", tt.sector, tt.length)
		}
	}
	if got := g.Status(); got&virtio.StatusNeedsReset != 0 {
		t.Errorf("device status %#x", got)
	}
}

// TestRefusedReadIsNotCounted: the used length of a request that fails does not count data that was not written.
func TestRefusedReadIsNotCounted(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	if r := g.Queue(0).Do([][]byte{header(typeIn, 64)}, 512, 1); r.Written != 0 || r.Room()[512] != statusIOErr {
		t.Errorf("used length %d, status %d", r.Written, r.Room()[512])
	}
}

func TestReadOnly(t *testing.T) {
	g := newGuest(t, Config{ReadOnly: true}, virtiotest.Options{})
	if g.Features&FeatureReadOnly == 0 || g.Features&(FeatureDiscard|FeatureWriteZeroes) != 0 {
		t.Errorf("features %#x", g.Features)
	}
	g.want(statusOK, typeIn, 1, nil, 512)
	g.want(statusIOErr, typeOut, 1, pattern(512), 0)
	g.want(statusIOErr, typeOut, 1, nil, 0)
	g.want(statusIOErr, typeDiscard, 0, segments(0, 1, 0), 0)
	g.want(statusIOErr, typeWriteZeroes, 0, segments(0, 1, 0), 0)
	g.want(statusOK, typeFlush, 0, nil, 0)
	g.disk.wantCalls("read 512+512", "flush 0+0")
}

func TestFlush(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	g.want(statusOK, typeOut, 0, pattern(512), 0)
	g.want(statusOK, typeFlush, 7, nil, 0) // the sector means nothing
	g.disk.wantCalls("write 0+512", "flush 0+0")
	g.disk.fail = errors.New("broken")
	g.want(statusIOErr, typeFlush, 0, nil, 0)
}

// TestWriteThrough: a driver that does not know of the cache finds each write durable (virtio 1.2 §5.2.5.2).
func TestWriteThrough(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Without: FeatureFlush})
	g.want(statusOK, typeOut, 1, pattern(512), 0)
	g.want(statusOK, typeWriteZeroes, 0, segments(3, 1, 0), 0)
	g.want(statusUnsupported, typeFlush, 0, nil, 0)
	g.want(statusOK, typeIn, 1, nil, 512)
	g.disk.wantCalls("write 512+512", "flush 0+0", "zero(false) 1536+512", "flush 0+0", "read 512+512")
	g.disk.before = func(operation string) {
		if operation == "flush" {
			g.disk.mu.Lock()
			g.disk.fail = errors.New("broken")
			g.disk.mu.Unlock()
		}
	}
	g.want(statusIOErr, typeOut, 1, pattern(512), 0)
}

// bare is a Storage without any extra.
type bare struct{ Storage }

func TestBareStorage(t *testing.T) {
	m := newMemory(t, 64)
	g := newGuest(t, Config{Storage: bare{m}}, virtiotest.Options{})
	if want := FeatureSegMax | FeatureBlockSize; g.Features&(1<<24-1) != want {
		t.Errorf("features %#x, want %#x", g.Features, want)
	}
	g.want(statusOK, typeOut, 1, pattern(512), 0)
	g.want(statusUnsupported, typeFlush, 0, nil, 0)
	g.want(statusUnsupported, typeDiscard, 0, segments(0, 1, 0), 0)
	g.want(statusUnsupported, typeWriteZeroes, 0, segments(0, 1, 0), 0)
	m.wantCalls("write 512+512")
}

// TestNotNegotiated: what the driver did not ask for it does not get.
func TestNotNegotiated(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Without: FeatureDiscard | FeatureWriteZeroes})
	g.want(statusUnsupported, typeDiscard, 0, segments(0, 1, 0), 0)
	g.want(statusUnsupported, typeWriteZeroes, 0, segments(0, 1, 0), 0)
	g.disk.wantCalls()
}

func TestDiscardAndWriteZeroes(t *testing.T) {
	many := make([]uint64, 0, 3*maxSegments+3)
	for i := range uint64(maxSegments + 1) {
		many = append(many, i, 1, 0)
	}
	for _, tt := range []struct {
		name   string
		kind   uint32
		data   []byte
		status byte
		calls  []string
	}{
		{"discard", typeDiscard, segments(2, 3, 0), statusOK, []string{"discard 1024+1536"}},
		{"discard of two", typeDiscard, segments(2, 1, 0, 8, 2, 0), statusOK, []string{"discard 1024+512", "discard 4096+1024"}},
		{"discard of all", typeDiscard, segments(0, 64, 0), statusOK, []string{"discard 0+32768"}},
		{"discard with unmap", typeDiscard, segments(2, 3, 1), statusUnsupported, nil},
		{"zeroes", typeWriteZeroes, segments(2, 3, 0), statusOK, []string{"zero(false) 1024+1536"}},
		{"zeroes with unmap", typeWriteZeroes, segments(2, 3, 1), statusOK, []string{"zero(true) 1024+1536"}},
		{"unknown flag", typeWriteZeroes, segments(2, 3, 2), statusUnsupported, nil},
		{"unknown flag beside unmap", typeWriteZeroes, segments(2, 3, 1<<31|1), statusUnsupported, nil},
		{"unknown flag of the second", typeWriteZeroes, segments(2, 3, 0, 5, 1, 4), statusUnsupported, nil},
		{"nothing", typeWriteZeroes, segments(2, 0, 0), statusOK, nil},
		{"no segment", typeDiscard, nil, statusIOErr, nil},
		{"half a segment", typeDiscard, segments(2, 3, 0)[:8], statusIOErr, nil},
		{"a segment and a half", typeDiscard, segments(2, 3, 0, 5, 1, 0)[:24], statusIOErr, nil},
		{"at the end", typeDiscard, segments(63, 1, 0), statusOK, []string{"discard 32256+512"}},
		{"beyond the end", typeDiscard, segments(63, 2, 0), statusIOErr, nil},
		{"second beyond the end", typeWriteZeroes, segments(0, 1, 0, 64, 1, 0), statusIOErr, nil},
		{"overflow", typeWriteZeroes, segments(math.MaxUint64, 2, 0), statusIOErr, nil},
		{"overflow in bytes", typeWriteZeroes, segments(1<<55, 2, 0), statusIOErr, nil},
		{"huge", typeDiscard, segments(0, math.MaxUint32, 0), statusIOErr, nil},
		{"too many", typeDiscard, segments(many...), statusIOErr, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, Config{}, virtiotest.Options{})
			g.want(tt.status, tt.kind, 99, tt.data, 0) // the header's sector means nothing
			g.disk.wantCalls(tt.calls...)
			// The segments may be framed as the driver likes.
			r := g.Queue(0).Do(pieces(append(header(tt.kind, 0), tt.data...), []int{3, 14, 1, 9}), 1)
			if _, status := g.result(r); status != tt.status {
				t.Errorf("status %d in pieces, want %d", status, tt.status)
			}
			g.disk.wantCalls(tt.calls...)
		})
	}
}

func TestClearFails(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	g.disk.fail = errors.New("broken")
	g.want(statusIOErr, typeDiscard, 0, segments(0, 1, 0, 2, 1, 0), 0)
	g.disk.wantCalls("discard 0+512") // no further
	g.want(statusIOErr, typeWriteZeroes, 0, segments(0, 1, 0), 0)
}

func TestGetID(t *testing.T) {
	for _, serial := range []string{"", "disk0", "exactly twenty chars"} {
		g := newGuest(t, Config{Serial: serial}, virtiotest.Options{})
		want := append([]byte(serial), make([]byte, 20-len(serial))...)
		for _, room := range []int{0, 1, 7, 20} {
			if got := g.want(statusOK, typeGetID, 0, nil, room); !bytes.Equal(got, want[:room]) {
				t.Errorf("serial %q, room %d: %q", serial, room, got)
			}
		}
		r := g.Queue(0).Do([][]byte{header(typeGetID, 0)}, 32, 1)
		if p, status := g.result(r); status != statusOK || r.Written != 20 || !bytes.Equal(p[:20], want) {
			t.Errorf("serial %q, room 32: status %d, used length %d, %q", serial, status, r.Written, p)
		}
	}
}

func TestUnsupportedType(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	for _, kind := range []uint32{2, 3, 5, 10, 12, 14, 15, 16, 1 << 31, math.MaxUint32} {
		g.want(statusUnsupported, kind, 0, nil, 0)
		g.want(statusUnsupported, kind, math.MaxUint64, pattern(512), 512)
	}
	g.disk.wantCalls()
}

func TestShortHeader(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{})
	for n := range headerSize {
		var readable [][]byte
		if n > 0 {
			readable = [][]byte{header(typeIn, 0)[:n]}
		}
		r := g.Queue(0).Do(readable, 512, 1)
		if _, status := g.result(r); status != statusIOErr || r.Written != 0 {
			t.Errorf("header of %d bytes: status %d, used length %d", n, status, r.Written)
		}
	}
	g.disk.wantCalls()
}

// TestNoStatusByte: nothing can be said in a request without a status byte, so nothing is done and the device wants a
// reset, after which it works again.
func TestNoStatusByte(t *testing.T) {
	for _, direct := range []bool{false, true} {
		g := newGuest(t, Config{}, virtiotest.Options{Manual: true, Direct: direct})
		g.Queue(0).Add([][]byte{header(typeOut, 0), pattern(512)})
		g.Queue(0).Kick()
		if got := g.Status(); got&virtio.StatusNeedsReset == 0 {
			t.Errorf("status %#x", got)
		}
		g.disk.wantCalls()
		g.Init()
		g.want(statusOK, typeIn, 0, nil, 512)
	}
}

// TestStorageFails: the guest gets IOERR each time, the log a few lines.
func TestStorageFails(t *testing.T) {
	var log bytes.Buffer
	g := newGuest(t, Config{Serial: "disk7", Logger: slog.New(slog.NewTextHandler(&log, nil))}, virtiotest.Options{})
	g.disk.fail = errors.New("medium error")
	for range 100 {
		g.want(statusIOErr, typeIn, 1, nil, 512)
		g.want(statusIOErr, typeOut, 1, pattern(512), 0)
	}
	g.StopWorkers()
	if n := strings.Count(log.String(), "\n"); n == 0 || n > 10 || !strings.Contains(log.String(), "medium error") ||
		!strings.Contains(log.String(), "disk7") {
		t.Errorf("%d lines: %s", n, log.String())
	}
	if got := g.Status(); got&virtio.StatusNeedsReset != 0 {
		t.Errorf("device status %#x", got)
	}
}

// TestBadRequestsAreNotLogged: a guest cannot fill the log, nor use up what is left for real errors.
func TestBadRequestsAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	g := newGuest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, virtiotest.Options{})
	g.want(statusIOErr, typeIn, 1<<40, nil, 512)
	g.want(statusUnsupported, 99, 0, nil, 0)
	g.want(statusUnsupported, typeWriteZeroes, 0, segments(0, 1, 8), 0)
	g.want(statusIOErr, typeDiscard, 0, segments(64, 1, 0), 0)
	g.StopWorkers()
	if log.Len() > 0 {
		t.Errorf("log: %s", log.String())
	}
}
