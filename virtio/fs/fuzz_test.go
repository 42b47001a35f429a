package fs

import (
	"encoding/binary"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// script is the fuzzers' input for a session: each request is its length (2 bytes), the reply's room in units of 64 bytes,
// and the size of the pieces that it comes in, then the request itself, whose length field is made right if the piece
// size is even.
func script(requests ...[]byte) []byte {
	var p []byte
	for _, r := range requests {
		p = binary.LittleEndian.AppendUint16(p, uint16(len(r)))
		p = append(p, 80, 80)
		p = append(p, r...)
	}
	return p
}

// session is a script that does something sensible of everything with the file "a", which is in directory dir.
func session(dir, file, fh uint64) []byte {
	lock := func(typ uint32) []any { return []any{fh, uint64(7), uint64(0), uint64(9), typ, uint32(1), zeros(8)} }
	return script(
		message(opLookup, 1, 1, exportName),
		message(opLookup, 2, dir, "a"),
		message(3, 4, file, zeros(16)),
		message(14, 6, file, uint32(os.O_RDWR), uint32(0)),
		message(opWrite, 8, file, fh, uint64(0), uint32(4), zeros(20), []byte("data")),
		message(opRead, 10, file, readArgs(fh, 0, 64)...),
		message(32, 12, file, lock(1)...),
		message(31, 14, file, lock(1)...),
		message(32, 16, file, lock(2)...),
		message(opSetLkW, 18, file, lock(0)...),
		message(20, 20, file, fh, uint64(0)),
		message(25, 22, file, fh, uint64(0), uint64(7)),
		message(opSetXAttr, 24, file, uint32(5), uint32(0), uint64(0), "user.x", []byte("value")),
		message(opGetXAttr, 26, file, uint32(64), uint32(0), "user.x"),
		message(opListXAttr, 28, file, uint32(64), uint32(0)),
		message(24, 30, file, "user.x"),
		message(43, 32, file, fh, uint64(0), uint64(100), uint64(0)),
		message(46, 34, file, fh, uint64(0), uint64(3)),
		message(47, 36, file, fh, uint64(0), file, fh, uint64(200), uint64(4), uint64(0)),
		message(52, 38, file, zeros(8), fh, uint32(0), uint32(0x7ff)),
		message(4, 40, file, uint32(1<<3|1), uint32(0), fh, uint64(3), zeros(44), uint32(0o600), zeros(16)),
		message(18, 42, file, fh, zeros(16)),
		message(27, 44, dir, uint32(0), uint32(0)),
		message(opReadDirPlus, 46, dir, readArgs(fh+1, 0, 1024)...),
		message(opReadDir, 48, dir, readArgs(fh+1, 0, 1024)...),
		message(29, 50, dir, fh+1, zeros(16)),
		message(9, 52, dir, uint32(0o755), uint32(0), "d"),
		message(8, 54, dir, uint32(0o100644), uint32(0), uint32(0), uint32(0), "n"),
		message(35, 56, dir, uint32(os.O_RDWR), uint32(0o644), uint32(0), uint32(0), "c"),
		message(6, 58, dir, "l", "target"),
		message(opReadlink, 60, file+5),
		message(13, 62, dir, file, "h"),
		message(45, 64, dir, dir, uint32(1), uint32(0), "h", "i"),
		message(12, 66, dir, dir, "i", "j"),
		message(10, 68, dir, "j"),
		message(11, 70, dir, "d"),
		message(opTmpfile, 72, dir, uint32(os.O_RDWR), uint32(0o644), uint32(0), uint32(0), "/"),
		message(17, 74, dir),
		message(34, 76, file, uint32(4), uint32(0)),
		message(opInterrupt, 78, 0, uint64(18)),
		message(opSyncFS, 80, dir, uint64(0)),
		message(opForget, 82, file, uint64(1)),
		message(opBatchForget, 84, 0, uint32(1), uint32(0), uint64(3), uint64(1)),
		message(opDestroy, 86, 0),
	)
}

// FuzzFUSERequest hands raw requests to go-fuse through the device.
func FuzzFUSERequest(f *testing.F) {
	fuzzRequests(f, func(t *testing.T) Handler {
		m := newMemFS("a", "b")
		close(m.block)
		opts := m.options()
		opts.PanicHandler = func(v any) fuse.Status {
			t.Errorf("the server panicked: %v", v)
			return fuse.EIO
		}
		return fuse.NewProtocolServer(m, opts)
	})
}

// FuzzHostFS does so with the real file server on a temporary directory.
func FuzzHostFS(f *testing.F) {
	need.Root(f)
	fuzzRequests(f, func(t *testing.T) Handler {
		fs, _ := newHostFS(t)
		opts := fs.Options()
		opts.PanicHandler = func(v any) fuse.Status {
			t.Errorf("the server panicked: %v", v)
			return fuse.EIO
		}
		return fuse.NewProtocolServer(fs, opts)
	})
}

func fuzzRequests(f *testing.F, newServer func(t *testing.T) Handler) {
	f.Add(session(rootNode, 2, 2)) // memFS
	f.Add(session(hostDir, hostDir+1, 1))
	for _, s := range seeds() {
		f.Add(script(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var log faultLog
		dev, err := New(Config{Tag: "t", Server: newServer(t), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		d := virtiotest.New(t, dev, virtiotest.Options{Manual: true, RAM: 1 << 20})
		watchdog := time.AfterFunc(8*time.Second, func() { panic("a request does not end") })
		defer watchdog.Stop()
		init := message(opInit, 1, 0, uint32(7), uint32(38), uint32(1<<17), uint32(flagSetXAttrExt|1<<30), uint32(0), zeros(44))
		fuzzOne(t, dev, d, init, 8, 80)
		for n := 0; len(data) >= 4 && n < 100; n++ {
			size := min(int(binary.LittleEndian.Uint16(data)), len(data)-4)
			fuzzOne(t, dev, d, slices.Clone(data[4:4+size]), int(data[2]), int(data[3]))
			data = data[4+size:]
		}
		d.Reset()
		if log.panics {
			t.Error("the server panicked")
		}
		if got := d.Status(); got != 0 {
			t.Errorf("status %#x", got)
		}
	})
}

// faultLog looks for panics in what the device logs.
type faultLog struct{ panics bool }

func (l *faultLog) Write(p []byte) (int, error) {
	l.panics = l.panics || strings.Contains(string(p), "panicked")
	return len(p), nil
}

// fuzzOne has one request carried out and checks the form of the reply.
func fuzzOne(t *testing.T, dev *Device, d *virtiotest.Driver, m []byte, room, piece int) {
	if len(m) == 0 {
		return
	}
	if piece%2 == 0 && len(m) >= 4 {
		le.PutUint32(m, uint32(len(m)))
	}
	q := d.Queue(1)
	var in [][]byte
	for p := range slices.Chunk(m, max(piece, 1+len(m)/16)) {
		in = append(in, p)
	}
	var out []int
	if room > 0 {
		out = []int{room * 32, room * 32}
	}
	r := q.Add(in, out...)
	q.Kick()
	dev.interruptAll() // what waits
	if q.Reap(); !r.Done {
		t.Fatal("a request does not come back")
	}
	p := r.Bytes()
	if len(p) == 0 {
		return
	}
	if len(p) < replySize || le.Uint32(p) != uint32(len(p)) || le.Uint64(p[8:]) != le.Uint64(m[8:]) {
		t.Fatalf("reply % x to % x", p, m)
	}
	if errno := -int32(le.Uint32(p[4:])); errno < 0 || errno > 4095 || errno != 0 && len(p) != replySize {
		t.Fatalf("error %d in a reply of %d bytes", errno, len(p))
	}
}

// TestSeeds: the fuzzers' sessions get through to the file systems.
func TestSeeds(t *testing.T) {
	need.Root(t)
	for name, s := range map[string][]byte{
		"memFS": session(rootNode, 2, 2), "hostfs": session(hostDir, hostDir+1, 1),
	} {
		g := newGuest(t, func(c *Config) {
			if name == "hostfs" {
				fs, _ := newHostFS(t)
				c.Server = fuse.NewProtocolServer(fs, fs.Options())
			}
		})
		close(g.fs.block)
		g.Init()
		g.init(flagSetXAttrExt | 1<<30)
		good := 0
		for len(s) > 0 {
			n := int(le.Uint16(s))
			r := g.raw(1, 5120, s[4:4+n])
			if g.Queue(1).Wait(r); r.Written == 0 {
				good++
			} else if errno, _ := g.reply(r); errno == 0 {
				good++
			} else {
				t.Logf("%s: opcode %d: %v", name, le.Uint32(s[8:]), errno)
			}
			s = s[4+n:]
		}
		if want := map[string]int{"memFS": 17, "hostfs": 41}[name]; good < want {
			t.Errorf("%s: %d requests succeed, want %d", name, good, want)
		}
	}
}
