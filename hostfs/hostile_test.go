package hostfs

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// TestNamesLeadNowhere: no request accepts a name that is more than one component, or that leads up. Contract: E2.
func TestNamesLeadNowhere(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "d/f"), "text")
	g := newGuest(t, host)
	dir := g.lookup(g.top(), "d")
	f := g.lookup(dir, "f")
	h := g.header(dir)
	for _, name := range []string{"", ".", "..", "/", "../f", "d/f", "/etc/passwd", "f/", "f\x00", "\x00", strings.Repeat("n", 256), strings.Repeat("n", 1<<16)} {
		for what, code := range map[string]fuse.Status{
			"lookup":  g.Lookup(nil, &h, name, &fuse.EntryOut{}),
			"create":  g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, name, &fuse.CreateOut{}),
			"mknod":   g.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG}, name, &fuse.EntryOut{}),
			"mkdir":   g.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, name, &fuse.EntryOut{}),
			"symlink": g.Symlink(nil, &h, "t", name, &fuse.EntryOut{}),
			"link":    g.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: f}, name, &fuse.EntryOut{}),
			"unlink":  g.Unlink(nil, &h, name),
			"rmdir":   g.Rmdir(nil, &h, name),
			"from":    g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: dir}, name, "new"),
			"to":      g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: dir}, "f", name),
		} {
			if code != fuse.EINVAL && code != fuse.Status(unix.ENAMETOOLONG) {
				t.Errorf("%s of %.20q: %v", what, name, code)
			}
		}
	}
	if got := names(t, filepath.Join(host, "d")); len(got) != 1 {
		t.Errorf("the directory holds %q", got)
	}
}

// TestSwappedLinks: a directory that the host keeps replacing by a link to the outside never lets the guest out. Contract: E2.
func TestSwappedLinks(t *testing.T) {
	host, outside := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(outside, "secret"), "secret")
	writeFile(t, filepath.Join(host, "dir/plain"), "")
	check(t, os.Symlink(outside, filepath.Join(host, "link")))
	g := newGuest(t, host)
	top := g.top()
	stop := make(chan struct{})
	swapped := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				swapped <- n
				return
			default:
			}
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(host, "dir"), unix.AT_FDCWD, filepath.Join(host, "link"), unix.RENAME_EXCHANGE)
		}
	}()
	found := 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		var out fuse.EntryOut
		if g.Lookup(nil, ptr(g.header(top)), "dir", &out) != fuse.OK {
			continue
		}
		h := g.header(out.NodeId)
		if code := g.Lookup(nil, &h, "secret", &fuse.EntryOut{}); code == fuse.OK {
			t.Fatal("the guest got out")
		}
		if g.Lookup(nil, &h, "plain", &fuse.EntryOut{}) == fuse.OK {
			found++
		}
		_ = g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, "made", &fuse.CreateOut{})
		_ = g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: out.NodeId}, "secret", "taken")
		g.Forget(out.NodeId, 1)
	}
	close(stop)
	if n := <-swapped; n < 100 || found == 0 {
		t.Errorf("%d swaps, %d lookups in the directory: the test tests nothing", n, found)
	}
	if got := names(t, outside); len(got) != 1 || got[0] != "secret" {
		t.Errorf("outside: %q", got)
	}
}

// TestForged: node ids and handles that were never given, that are stale, or that are another's. Contract: R4.
func TestForged(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "a"), "aaaa")
	writeFile(t, filepath.Join(host, "b"), "bbbb")
	g := newGuest(t, host)
	top := g.top()
	a, b := g.lookup(top, "a"), g.lookup(top, "b")
	var dir fuse.OpenOut
	if code := g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(top)}, &dir); code != fuse.OK {
		t.Fatal(code)
	}
	file, stale := g.open(a, unix.O_RDWR), g.open(a, unix.O_RDWR)
	g.Release(nil, &fuse.ReleaseIn{InHeader: g.header(a), Fh: stale})
	gone := g.lookup(top, "b")
	g.Forget(gone, 2)
	for _, tt := range []struct {
		what     string
		node, fh uint64
	}{
		{"no node", 0, file}, {"a node that never was", 1 << 40, file}, {"the largest node", math.MaxUint64, file},
		{"a forgotten node", b, file}, {"no handle", a, 0}, {"a handle that never was", a, 1 << 40}, {"a released handle", a, stale},
		{"a directory's handle", a, dir.Fh}, {"a directory with a file's handle", top, file}, {"a directory", top, dir.Fh},
		{"the root", fuse.FUSE_ROOT_ID, file},
	} {
		for what, code := range g.everything(tt.node, tt.fh) {
			switch {
			case code == fuse.OK && (what == "getattr" || what == "statx" || what == "statfs" || what == "xattrs"):
			case code == fuse.OK && tt.what == "a directory" && (strings.HasPrefix(what, "readdir") || what == "fsync" || what == "flush"):
			case code != fuse.EBADF && code != fuse.Status(unix.ESTALE) && code != fuse.EISDIR && code != fuse.ENOTDIR && code != fuse.EROFS &&
				code != fuse.EINVAL && code != fuse.ENODATA:
				t.Errorf("%s of %s: %v", what, tt.what, code)
			}
		}
	}
	if got := readFile(t, filepath.Join(host, "a")) + readFile(t, filepath.Join(host, "b")); got != "aaaabbbb" {
		t.Errorf("the files hold %q", got)
	}
}

// everything asks for all that takes a handle, and more.
func (g *guest) everything(node, fh uint64) map[string]fuse.Status {
	h := g.header(node)
	list := fuse.NewDirEntryList(make([]byte, 4096), 0)
	plus := fuse.NewDirEntryList(make([]byte, 4096), 0)
	r, read := g.Read(nil, &fuse.ReadIn{InHeader: h, Fh: fh, Size: 10}, nil)
	if read == fuse.OK {
		r.Done()
	}
	_, write := g.Write(nil, &fuse.WriteIn{InHeader: h, Fh: fh, Size: 1}, []byte("x"))
	_, cp := g.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: h, FhIn: fh, NodeIdOut: node, FhOut: fh, Len: 1, OffOut: 100})
	_, xattrs := g.ListXAttr(nil, &h, nil)
	_, readlink := g.Readlink(nil, &h)
	var lk fuse.LkOut
	return map[string]fuse.Status{
		"read": read, "write": write, "copy": cp, "xattrs": xattrs, "readlink": readlink,
		"getattr":     g.GetAttr(nil, &fuse.GetAttrIn{InHeader: h, Fh_: fh, Flags_: fuse.FUSE_GETATTR_FH}, &fuse.AttrOut{}),
		"statx":       g.Statx(nil, &fuse.StatxIn{InHeader: h, Fh: fh}, &fuse.StatxOut{}),
		"statfs":      g.StatFs(nil, &h, &fuse.StatfsOut{}),
		"truncate":    g.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: h, Valid: fuse.FATTR_SIZE | fuse.FATTR_FH, Fh: fh}}, &fuse.AttrOut{}),
		"lseek":       g.Lseek(nil, &fuse.LseekIn{InHeader: h, Fh: fh, Whence: unix.SEEK_DATA}, &fuse.LseekOut{}),
		"fallocate":   g.Fallocate(nil, &fuse.FallocateIn{InHeader: h, Fh: fh, Length: 1}),
		"fsync":       g.Fsync(nil, &fuse.FsyncIn{InHeader: h, Fh: fh}),
		"flush":       g.Flush(nil, &fuse.FlushIn{InHeader: h, Fh: fh}),
		"getlk":       g.GetLk(nil, lockIn(node, fh, 1, unix.F_WRLCK, 0, 1), &lk),
		"setlk":       g.SetLk(nil, lockIn(node, fh, 1, unix.F_WRLCK, 0, 1)),
		"setlkw":      g.SetLkw(nil, lockIn(node, fh, 1, unix.F_WRLCK, 0, 1)),
		"readdir":     g.ReadDir(nil, &fuse.ReadIn{InHeader: h, Fh: fh, Size: 4096}, list),
		"readdirplus": g.ReadDirPlus(nil, &fuse.ReadIn{InHeader: h, Fh: fh, Size: 4096}, plus),
	}
}

// TestOddNumbers: offsets, sizes, flags and bits that no kernel sends. Each is answered, and the server goes on. Contract: R4.
func TestOddNumbers(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "text")
	g := newGuest(t, host)
	top := g.top()
	node := g.lookup(top, "f")
	fh := g.open(node, unix.O_RDWR)
	var dir fuse.OpenOut
	if code := g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(top)}, &dir); code != fuse.OK {
		t.Fatal(code)
	}
	h := g.header(node)
	odd := []uint64{0, 1, 4096, 1 << 31, 1 << 32, math.MaxInt64 - 1, math.MaxInt64, 1 << 63, math.MaxUint64}
	for _, n := range odd {
		for _, m := range odd {
			if r, code := g.Read(nil, &fuse.ReadIn{InHeader: h, Fh: fh, Offset: n, Size: uint32(m)}, nil); code == fuse.OK {
				_, _ = r.Bytes(make([]byte, 16))
				r.Done()
			}
			if w, code := g.Write(nil, &fuse.WriteIn{InHeader: h, Fh: fh, Offset: n | 1<<62}, []byte("x")); code == fuse.OK {
				t.Errorf("wrote %d bytes at %#x", w, n|1<<62)
			}
			g.Lseek(nil, &fuse.LseekIn{InHeader: h, Fh: fh, Offset: n, Whence: uint32(m)}, &fuse.LseekOut{})
			g.Fallocate(nil, &fuse.FallocateIn{InHeader: h, Fh: fh, Offset: n | 1<<62, Length: m, Mode: uint32(m)})
			_, _ = g.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: h, FhIn: fh, NodeIdOut: node, FhOut: fh, OffIn: n, OffOut: m | 1<<62, Len: m})
			g.SetLk(nil, lockIn(node, fh, n, uint32(m), n, m))
			g.GetLk(nil, lockIn(node, fh, n, uint32(m), m, n), &fuse.LkOut{})
			for _, in := range []*fuse.ReadIn{{InHeader: g.header(top), Fh: dir.Fh, Offset: n, Size: uint32(m)}} {
				room := make([]byte, min(m, 1000))
				g.ReadDir(nil, in, fuse.NewDirEntryList(room, n))
				g.ReadDirPlus(nil, in, fuse.NewDirEntryList(room, n))
			}
			in := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{
				InHeader: h, Valid: uint32(1+n)<<uint(m%32) | uint32(m), Fh: fh, Size: n | 1<<63, Atime: n, Mtime: m, Atimensec: uint32(m),
				Mtimensec: uint32(n), Owner: fuse.Owner{Uid: uint32(n), Gid: uint32(m)}, Mode: uint32(n),
			}}
			g.SetAttr(nil, in, &fuse.AttrOut{})
			g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: uint32(n), Flags: uint32(m)}, "user.x", []byte("v"))
			g.Forget(n, m)
		}
	}
	for bit := range 32 {
		in := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: g.header(g.lookup(top, "f")), Valid: 1 << bit, Mode: 0o644}}
		g.SetAttr(nil, in, &fuse.AttrOut{})
		code := g.Open(nil, &fuse.OpenIn{InHeader: g.header(g.lookup(top, "f")), Flags: 1 << bit}, &fuse.OpenOut{})
		if code != fuse.OK {
			t.Errorf("open with flag %#o: %v", 1<<bit, code)
		}
	}
	if got := g.lookup(fuse.FUSE_ROOT_ID, "c", "0"); got != top {
		t.Errorf("the export was node %d, is %d", top, got)
	}
	if g.dirKept.Load() < 0 || g.dirKept.Load() > dirKeepMost {
		t.Errorf("%d bytes of directory entries are counted", g.dirKept.Load())
	}
}

// TestXAttrTricks: names and sizes that do not fit. Contract: R4.
func TestXAttrTricks(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "")
	g := newGuest(t, host)
	node := g.lookup(g.top(), "f")
	h := g.header(node)
	for _, name := range []string{"", "user", "user.", "system.posix_acl_access\x00", "security.selinux", "system.nfs4_acl", "trusted", "../user.x"} {
		if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 1}, name, []byte("v")); code == fuse.OK {
			t.Errorf("set %q", name)
		}
	}
	if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 5}, "user.x", []byte("four")); code != fuse.EINVAL {
		t.Errorf("a size beyond the data: %v", code)
	}
	if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 1}, "user."+strings.Repeat("n", 300), []byte("v")); code != fuse.ERANGE {
		t.Errorf("a long name: %v", code)
	}
	if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 1 << 20}, "user.x", make([]byte, 1<<20)); code == fuse.OK {
		t.Error("a value of 1 MiB")
	}
	if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 4}, "user.x", []byte("four")); code != fuse.OK {
		t.Fatal(code)
	}
	if n, code := g.GetXAttr(nil, &h, "user.x", make([]byte, 3)); code != fuse.ERANGE {
		t.Errorf("too little room: %d, %v", n, code)
	}
	if n, code := g.ListXAttr(nil, &h, make([]byte, 3)); code != fuse.ERANGE {
		t.Errorf("too little room for the list: %d, %v", n, code)
	}
	if n, code := g.ListXAttr(nil, &h, nil); code != fuse.OK || n != uint32(len("user.x\x00")) {
		t.Errorf("the list: %d, %v", n, code)
	}
}

// TestXAttrOfOpenFile: a file's attributes are the same while it is open, whatever for, and when it is closed again. Contract: A2.
func TestXAttrOfOpenFile(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "")
	g := newGuest(t, host)
	node := g.lookup(g.top(), "f")
	h := g.header(node)
	if code := g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 4}, "user.x", []byte("four")); code != fuse.OK {
		t.Fatal(code)
	}
	same := func(when string) {
		t.Helper()
		buf := make([]byte, 10)
		if n, code := g.GetXAttr(nil, &h, "user.x", buf); code != fuse.OK || string(buf[:n]) != "four" {
			t.Errorf("%s: %v, %q", when, code, buf[:n])
		}
		if n, code := g.GetXAttr(nil, &h, "user.x", nil); code != fuse.OK || n != 4 {
			t.Errorf("%s: size %d, %v", when, n, code)
		}
		if _, code := g.GetXAttr(nil, &h, "user.x", buf[:3]); code != fuse.ERANGE {
			t.Errorf("%s: too little room: %v", when, code)
		}
		if _, code := g.GetXAttr(nil, &h, "security.capability", buf); code != fuse.ENODATA {
			t.Errorf("%s: one that is not there: %v", when, code)
		}
	}
	same("before")
	var open []uint64
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
		open = append(open, g.open(node, flags))
		same(fmt.Sprintf("open with %#x", flags))
	}
	for i := range open {
		g.Release(nil, &fuse.ReleaseIn{InHeader: h, Fh: open[len(open)-1-i]})
		same("after a close")
	}
}

// TestForgetTooMuch costs the guest its own nodes only, and gives descriptors back. Contract: R2.
func TestForgetTooMuch(t *testing.T) {
	host := t.TempDir()
	for i := range 50 {
		writeFile(t, filepath.Join(host, fileName(i)), "")
	}
	g := newGuest(t, host)
	before := g.budget.used
	for range 3 {
		top := g.top()
		for i := range 50 {
			g.lookup(top, fileName(i))
		}
		if used := g.budget.used; used != before+50 {
			t.Fatalf("%d descriptors for 50 files, %d before", used, before)
		}
		for id := range uint64(1000) { // the root and the export too, which are not the guest's to forget
			g.Forget(id, math.MaxUint64)
		}
		if used := g.budget.used; used != before {
			t.Fatalf("%d descriptors after all was forgotten, %d before", used, before)
		}
	}
}

// TestManyHandles: descriptors are bounded, whatever the guest opens: then it gets ENFILE, and what it closes is free again.
// Contract: R1.
func TestManyHandles(t *testing.T) {
	const limit = 100
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "text")
	g := newGuest(t, host, func(c *Config) { c.Limits.MaxDescriptors = limit })
	top := g.top()
	node := g.lookup(top, "f")
	for what, open := range map[string]func(out *fuse.OpenOut) fuse.Status{
		"file":      func(out *fuse.OpenOut) fuse.Status { return g.Open(nil, &fuse.OpenIn{InHeader: g.header(node)}, out) },
		"directory": func(out *fuse.OpenOut) fuse.Status { return g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(top)}, out) },
		"root":      func(out *fuse.OpenOut) fuse.Status { return g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(1)}, out) },
	} {
		var handles []uint64
		for range limit + 1 {
			var out fuse.OpenOut
			if code := open(&out); code == fuse.Status(unix.ENFILE) {
				break
			} else if code != fuse.OK {
				t.Fatalf("%s: %v", what, code)
			}
			handles = append(handles, out.Fh)
		}
		if n := len(handles); n < limit/2 || n > limit {
			t.Errorf("%s: %d handles with a limit of %d", what, n, limit)
		}
		if code := g.SyncFS(top); code != fuse.Status(unix.ENFILE) {
			t.Errorf("%s: syncfs without a descriptor: %v", what, code)
		}
		check(t, g.SyncAll())
		for _, fh := range handles {
			for _, n := range []uint64{node, top, 1} {
				g.Release(nil, &fuse.ReleaseIn{InHeader: g.header(n), Fh: fh})
			}
		}
		if used := g.budget.used; used > 10 {
			t.Errorf("%s: %d descriptors are counted after the release", what, used)
		}
	}
}

// TestManyDirectories: what directory handles keep in memory is bounded, and each lists everything all the same. Contract: R3.
func TestManyDirectories(t *testing.T) {
	host := t.TempDir()
	const files, handles = 600, 400
	for i := range files {
		writeFile(t, filepath.Join(host, fmt.Sprintf("%s-%d", strings.Repeat("n", 40), i)), "")
	}
	g := newGuest(t, host)
	top := g.top()
	next, count, fhs := make([]uint64, handles), make([]int, handles), make([]uint64, handles)
	for i := range fhs {
		var out fuse.OpenOut
		if code := g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(top)}, &out); code != fuse.OK {
			t.Fatal(code)
		}
		fhs[i] = out.Fh
	}
	for more := true; more; {
		more = false
		for i := range fhs {
			list := fuse.NewDirEntryList(make([]byte, 4096), next[i])
			in := &fuse.ReadIn{InHeader: g.header(top), Fh: fhs[i], Offset: next[i], Size: 4096}
			if code := g.ReadDir(nil, in, list); code != fuse.OK {
				t.Fatal(code)
			}
			entries, err := fuse.ParseDirEntries(list.Bytes())
			check(t, err)
			if count[i] += len(entries); len(entries) > 0 {
				next[i], more = entries[len(entries)-1].Off, true
			}
		}
		if kept := g.dirKept.Load(); kept < 0 || kept > dirKeepMost {
			t.Fatalf("%d bytes are kept", kept)
		}
	}
	for i, n := range count {
		if n != files+2 {
			t.Errorf("handle %d lists %d entries", i, n)
		}
	}
	for _, fh := range fhs {
		g.ReleaseDir(&fuse.ReleaseIn{InHeader: g.header(top), Fh: fh})
	}
	if kept := g.dirKept.Load(); kept != 0 {
		t.Errorf("%d bytes are kept for nobody", kept)
	}
}

// TestManyParked: a guest that remembers far more files than there are descriptors can go on to look up others. Contract: R2.
func TestManyParked(t *testing.T) {
	host := t.TempDir()
	const files, limit = 3000, 100
	for i := range files {
		writeFile(t, filepath.Join(host, fileName(i)), "")
	}
	g := newGuest(t, host, func(c *Config) { c.Limits.MaxDescriptors = limit })
	top := g.top()
	first := g.lookup(top, fileName(0))
	for i := range files {
		g.lookup(top, fileName(i))
	}
	if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(first)}, &fuse.AttrOut{}); code != fuse.OK {
		t.Errorf("the first file: %v", code)
	}
}

// TestParkedAndRenamed: a node that lost its descriptor is found again where the guest itself moved it. Contract: I4.
func TestParkedAndRenamed(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "a/sub/f"), "text")
	writeFile(t, filepath.Join(host, "b/f"), "other")
	g := newGuest(t, host)
	top := g.top()
	a, b := g.lookup(top, "a"), g.lookup(top, "b")
	sub, f := g.lookup(a, "sub"), g.lookup(b, "f")
	rename := func(from uint64, old string, to uint64, name string, flags uint32) {
		t.Helper()
		if code := g.Rename(nil, &fuse.RenameIn{InHeader: g.header(from), Newdir: to, Flags: flags}, old, name); code != fuse.OK {
			t.Fatalf("rename: %v", code)
		}
	}
	rename(a, "sub", b, "moved", 0)
	rename(b, "f", a, "f", 0)
	for _, node := range []uint64{a, b, sub, f} {
		g.park(node)
	}
	if got := g.lookup(sub, "f"); got == f {
		t.Error("two files are one node")
	}
	rename(b, "moved", a, "f", unix.RENAME_EXCHANGE)
	g.park(sub)
	g.park(f)
	for _, node := range []uint64{sub, f} {
		if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(node)}, &fuse.AttrOut{}); code != fuse.OK {
			t.Errorf("after an exchange: %v", code)
		}
	}
}

// TestParkedCircle: directories moved into each other, so that each was last seen below the other. Contract: R4.
func TestParkedCircle(t *testing.T) {
	host := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(host, "a/b"), 0o755))
	g := newGuest(t, host)
	top := g.top()
	a := g.lookup(top, "a")
	b := g.lookup(a, "b")
	// The host's renames, of which the server learns by lookups alone.
	check(t, os.Rename(filepath.Join(host, "a/b"), filepath.Join(host, "b")))
	check(t, os.Rename(filepath.Join(host, "a"), filepath.Join(host, "b/a")))
	if again := g.lookup(b, "a"); again != a {
		t.Fatalf("node %d, was %d", again, a)
	}
	g.park(a)
	g.park(b)
	for _, node := range []uint64{a, b} {
		if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(node)}, &fuse.AttrOut{}); code != fuse.Status(unix.ESTALE) {
			t.Errorf("GETATTR: %v", code)
		}
	}
	if got := g.lookup(top, "b", "a"); got != a {
		t.Errorf("found again as node %d, was %d", got, a)
	}
}

// TestKernelInterfaces of the host are hidden wherever they are mounted below an export, and are not exported. Contract: E3.
func TestKernelInterfaces(t *testing.T) {
	need.Root(t)
	for _, kind := range []string{"proc", "sysfs", "cgroup2", "mqueue", "securityfs", "debugfs", "fusectl", "configfs", "bpf"} {
		t.Run(kind, func(t *testing.T) {
			host := t.TempDir()
			dir := filepath.Join(host, "m")
			check(t, os.Mkdir(dir, 0o755))
			if err := unix.Mount(kind, dir, kind, 0, ""); err == unix.ENODEV {
				t.Logf("this kernel has none: %v", err)
				return
			} else if err != nil {
				t.Fatal(err)
			}
			defer func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
			g := newGuest(t, host)
			top := g.top()
			if code := g.Lookup(nil, ptr(g.header(top)), "m", &fuse.EntryOut{}); code != fuse.EACCES {
				t.Errorf("lookup: %v", code)
			}
			var open fuse.OpenOut
			if code := g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(top)}, &open); code != fuse.OK {
				t.Fatal(code)
			}
			list := fuse.NewDirEntryList(make([]byte, 4096), 0)
			if code := g.ReadDirPlus(nil, &fuse.ReadIn{InHeader: g.header(top), Fh: open.Fh, Size: 4096}, list); code != fuse.OK {
				t.Fatal(code)
			}
			entries, attrs, err := fuse.ParseDirLookupEntries(list.Bytes())
			check(t, err)
			for i, e := range entries {
				if e.Name == "m" && attrs[i].NodeId != 0 {
					t.Errorf("READDIRPLUS gives node %d", attrs[i].NodeId)
				}
			}
			if err := g.Add(exportOf(t, "c/1", dir)); err == nil || !strings.Contains(err.Error(), "mount them inside") {
				t.Errorf("exported: %v", err)
			}
		})
	}
}

// TestOwnDescriptors: nothing that a guest can name leads to this process: no /proc/self, and no link that is followed here.
// Contract: E2.
func TestOwnDescriptors(t *testing.T) {
	host := t.TempDir()
	for name, target := range map[string]string{"mem": "/proc/self/mem", "fd": "/proc/self/fd", "up": "..", "etc": "/etc"} {
		check(t, os.Symlink(target, filepath.Join(host, name)))
	}
	g := newGuest(t, host)
	top := g.top()
	for _, name := range names(t, host) {
		e := g.entry(top, name)
		if e.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s: mode %o", name, e.Mode)
		}
		h := g.header(e.NodeId)
		for what, code := range map[string]fuse.Status{
			"lookup":  g.Lookup(nil, &h, "passwd", &fuse.EntryOut{}),
			"open":    g.Open(nil, &fuse.OpenIn{InHeader: h}, &fuse.OpenOut{}),
			"opendir": g.OpenDir(nil, &fuse.OpenIn{InHeader: h}, &fuse.OpenOut{}),
			"create":  g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, "x", &fuse.CreateOut{}),
		} {
			if code == fuse.OK {
				t.Errorf("%s through %s", what, name)
			}
		}
	}
}

// TestRequestsAtOnce from many threads, with a limit on descriptors that they fight for: the count is right in the end.
// Contract: R1.
func TestRequestsAtOnce(t *testing.T) {
	host := t.TempDir()
	const workers, files = 8, 60
	for i := range files {
		writeFile(t, filepath.Join(host, fileName(i)), "text")
	}
	g := newGuest(t, host, func(c *Config) { c.Limits.MaxDescriptors = 64 })
	top := g.top()
	var done [workers]chan struct{}
	var opened atomic.Int64
	for w := range done {
		done[w] = make(chan struct{})
		go func() {
			defer close(done[w])
			for i := range 1500 {
				h := g.header(top)
				var e fuse.EntryOut
				if g.Lookup(nil, &h, fileName((i*7+w)%files), &e) != fuse.OK {
					continue
				}
				var open fuse.OpenOut
				if g.Open(nil, &fuse.OpenIn{InHeader: g.header(e.NodeId)}, &open) == fuse.OK {
					opened.Add(1)
					g.Release(nil, &fuse.ReleaseIn{InHeader: g.header(e.NodeId), Fh: open.Fh})
				}
				if i%3 == 0 {
					g.FS.park(10)
				}
				g.Forget(e.NodeId, 1)
			}
		}()
	}
	for _, d := range done {
		<-d
	}
	g.Forget(top, math.MaxUint64)
	if g.budget.used != 1 || opened.Load() == 0 {
		t.Errorf("%d descriptors are counted for one export; %d opens", g.budget.used, opened.Load())
	}
	if len(g.nodes) > 4 {
		t.Errorf("%d nodes are left", len(g.nodes))
	}
}
