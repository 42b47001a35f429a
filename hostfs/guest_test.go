package hostfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// guest makes requests without a kernel in between: those that no kernel sends, too.
type guest struct {
	*FS
	t    testing.TB
	host string // the directory behind the export "c/0"
}

func newGuest(t testing.TB, host string, change ...func(*Config)) *guest {
	t.Helper()
	return &guest{FS: newFS(t, host, change...), t: t, host: host}
}

// header is a request of root's about a node.
func (g *guest) header(node uint64) fuse.InHeader { return fuse.InHeader{NodeId: node} }

// lookup walks names down from a node.
func (g *guest) lookup(node uint64, names ...string) uint64 {
	g.t.Helper()
	for _, name := range names {
		node = g.entry(node, name).NodeId
	}
	return node
}

func (g *guest) entry(node uint64, name string) *fuse.EntryOut {
	g.t.Helper()
	var out fuse.EntryOut
	if code := g.Lookup(nil, ptr(g.header(node)), name, &out); code != fuse.OK {
		g.t.Fatalf("lookup of %q: %v", name, code)
	}
	return &out
}

// top is the node of the export "c/0".
func (g *guest) top() uint64 { return g.lookup(fuse.FUSE_ROOT_ID, "c", "0") }

func (g *guest) open(node uint64, flags uint32) uint64 {
	g.t.Helper()
	var out fuse.OpenOut
	if code := g.Open(nil, &fuse.OpenIn{InHeader: g.header(node), Flags: flags}, &out); code != fuse.OK {
		g.t.Fatalf("open: %v", code)
	}
	return out.Fh
}

func lockIn(node, fh, owner uint64, typ uint32, start, end uint64) *fuse.LkIn {
	return &fuse.LkIn{
		InHeader: fuse.InHeader{NodeId: node}, Fh: fh, Owner: owner,
		Lk: fuse.FileLock{Start: start, End: end, Typ: typ, Pid: uint32(owner)},
	}
}

func (g *guest) setLock(node, fh, owner uint64, typ uint32, start, end uint64) fuse.Status {
	return g.SetLk(nil, lockIn(node, fh, owner, typ, start, end))
}

func ptr[T any](v T) *T { return &v }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(text), 0o644))
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return string(b)
}

// stat does not follow a link at the end of path.
func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
