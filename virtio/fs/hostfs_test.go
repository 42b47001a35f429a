package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/hostfs"
	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// hostfs has exports below its root, and counts its nodes.
const (
	exportName = "x"
	hostDir    = 2
)

// newHostFS serves a new directory with the files a and b as the export.
func newHostFS(t testing.TB) (*hostfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := hostfs.New(hostfs.Config{Exports: []hostfs.Export{{Name: exportName, Dir: f}}, Limits: hostfs.Limits{MaxDescriptors: 500}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close() })
	return fs, dir
}

// TestHostFS goes through the device to files of the host. Contract: L3, L5.
func TestHostFS(t *testing.T) {
	need.Root(t)
	fs, dir := newHostFS(t)
	g := newGuest(t, func(c *Config) {
		c.Server = fuse.NewProtocolServer(fs, fs.Options())
		c.SyncFS = func(uint64) fuse.Status { return fuse.ToStatus(fs.SyncAll()) }
	})
	errno, out := g.do(144, opLookup, 1, exportName)
	g.expect("LOOKUP of the export", 0, errno)
	top := le.Uint64(out)
	if top != hostDir {
		t.Errorf("the fuzzer's seeds take the export for node %d, it is %d", hostDir, top)
	}
	errno, out = g.do(144, opLookup, top, "a")
	g.expect("LOOKUP", 0, errno)
	node := le.Uint64(out)
	errno, out = g.do(32, 14, node, uint32(os.O_RDWR), uint32(0))
	g.expect("OPEN", 0, errno)
	fh := le.Uint64(out)
	data := slices.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, n := range []int{100, 4096, 1 << 20} {
		errno, out = g.do(24, opWrite, node, fh, uint64(0), uint32(n), zeros(20), data[:n])
		if g.expect("WRITE", 0, errno); int(le.Uint32(out)) != n {
			t.Errorf("wrote %d bytes", le.Uint32(out))
		}
		if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != string(data[:n]) {
			t.Errorf("%d bytes on the host, %v", len(got), err)
		}
		errno, out = g.do(16+n, opRead, node, readArgs(fh, 0, uint32(n))...)
		if g.expect("READ", 0, errno); string(out) != string(data[:n]) {
			t.Errorf("%d bytes read", len(out))
		}
	}
	errno, _ = g.do(16, 20, node, fh, uint64(0))
	g.expect("FSYNC", 0, errno)
	errno, _ = g.do(16, opSyncFS, 1, uint64(0))
	g.expect("SYNCFS", 0, errno)

	lock := func(owner uint64, typ uint32) []any {
		return []any{fh, owner, uint64(0), uint64(9), typ, uint32(1), zeros(8)}
	}
	errno, _ = g.do(16, 32, node, lock(1, 1)...)
	g.expect("SETLK", 0, errno)
	waiter := g.add(16, opSetLkW, node, lock(2, 1)...)
	interrupted := g.add(16, opSetLkW, node, lock(3, 1)...)
	unique := g.unique
	virtiotest.Eventually(t, "the device to have the request", func() bool {
		g.dev.mu.Lock()
		defer g.dev.mu.Unlock()
		return g.dev.inflight[unique] != nil
	})
	g.raw(0, 0, message(opInterrupt, unique|1, 0, unique))
	errno, _ = g.wait(interrupted)
	g.expect("the interrupted SETLKW", 4, errno)
	errno, _ = g.do(16, 32, node, lock(1, 2)...)
	g.expect("unlock", 0, errno)
	errno, _ = g.wait(waiter)
	g.expect("SETLKW", 0, errno)

	errno, out = g.do(16+4096, 27, top, uint32(0), uint32(0))
	g.expect("OPENDIR", 0, errno)
	errno, out = g.do(16+4096, opReadDirPlus, top, readArgs(le.Uint64(out), 0, 4096)...)
	g.expect("READDIRPLUS", 0, errno)
	entries, _, err := fuse.ParseDirLookupEntries(out)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	if slices.Sort(names); err != nil || strings.Join(names, " ") != ". .. a b" {
		t.Errorf("%q, %v", names, err)
	}
}

// TestHostFSReset: what a guest held ends with its session, by a reset or by DESTROY, whatever was under way. Contract: R5.
func TestHostFSReset(t *testing.T) {
	need.Root(t)
	fs, dir := newHostFS(t)
	g := newGuest(t, func(c *Config) {
		c.Server = fs.NewSession()
		c.Renew = func() Handler { return fs.NewSession() }
	})
	before := openFiles(t)
	for name, end := range map[string]func(){
		"reset":   func() { g.Init() },
		"DESTROY": func() { g.do(16, opDestroy, 0) },
	} {
		for range 3 {
			old := holdMuch(t, g, dir)
			if n := openFiles(t); n < before+10 {
				t.Fatalf("%s: %d descriptors before and %d in the session: the test tests nothing", name, before, n)
			}
			end()
			if n := openFiles(t); n != before {
				t.Errorf("%s: %d descriptors before the session, %d after", name, before, n)
			}
			g.init(0)
			errno, _ := g.do(144, 3, old, zeros(16))
			g.expect("GETATTR of a node of the old session", syscall.ESTALE, errno)
			errno, out := g.do(144, opLookup, 1, exportName)
			g.expect("LOOKUP of the export", 0, errno)
			errno, _ = g.do(144, opLookup, le.Uint64(out), "a")
			g.expect("LOOKUP", 0, errno)
			g.Init()
			g.init(0)
		}
	}
}

// holdMuch opens and locks files and returns a node.
func holdMuch(t *testing.T, g *guest, dir string) uint64 {
	t.Helper()
	_, out := g.do(144, opLookup, 1, exportName)
	top := le.Uint64(out)
	var node uint64
	for i := range 10 {
		name := fmt.Sprint("f", i)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, out = g.do(144, opLookup, top, name)
		node = le.Uint64(out)
		errno, out := g.do(32, 14, node, uint32(os.O_RDWR), uint32(0))
		g.expect("OPEN", 0, errno)
		errno, _ = g.do(16, 32, node, le.Uint64(out), uint64(1), uint64(0), uint64(9), uint32(1), uint32(1), zeros(8))
		g.expect("SETLK", 0, errno)
	}
	errno, _ := g.do(32, 27, top, uint32(0), uint32(0))
	g.expect("OPENDIR", 0, errno)
	return node
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// BenchmarkRequests shows what leaving the queue's goroutine costs: requests that stay in it (GETATTR, READ of up to
// 64 KiB) and that leave it (SYNCFS, which does nothing here, longer READs).
func BenchmarkRequests(b *testing.B) {
	need.Root(b)
	for _, bb := range []struct {
		name   string
		opcode uint32
		size   int
	}{{"GETATTR", 3, 0}, {"SYNCFS", opSyncFS, 0}, {"READ", opRead, 4096}, {"READ", opRead, 64 << 10}, {"READ", opRead, 128 << 10}, {"READ", opRead, 1 << 20}} {
		b.Run(fmt.Sprintf("%s/%d", bb.name, bb.size), func(b *testing.B) {
			g := benchGuest(b)
			args := []any{zeros(16)}
			if bb.opcode == opRead {
				args = readArgs(g.fh, 0, uint32(bb.size))
				b.SetBytes(int64(bb.size))
			}
			for b.Loop() {
				if errno, _ := g.do(16+max(bb.size, 200), bb.opcode, g.node, args...); errno != 0 {
					b.Fatal(errno)
				}
			}
		})
	}
}

type benchFile struct {
	*guest
	node, fh uint64
}

func benchGuest(b *testing.B) *benchFile {
	fs, dir := newHostFS(b)
	if err := os.WriteFile(filepath.Join(dir, "a"), zeros(1<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	m := newMemFS("a", "b")
	close(m.block)
	d := newDevice(b, m, func(c *Config) {
		c.Server = fuse.NewProtocolServer(fs, fs.Options())
		c.SyncFS = func(uint64) fuse.Status { return fuse.OK }
	})
	g := &benchFile{guest: &guest{Driver: virtiotest.New(b, d, virtiotest.Options{RAM: 16 << 20}), dev: d, fs: m}}
	g.init(0)
	_, out := g.do(144, opLookup, 1, exportName)
	_, out = g.do(144, opLookup, le.Uint64(out), "a")
	g.node = le.Uint64(out)
	_, out = g.do(32, 14, g.node, uint32(os.O_RDWR), uint32(0))
	g.fh = le.Uint64(out)
	return g
}
