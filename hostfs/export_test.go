package hostfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestRootExport(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "d/f"), "text")
	fs := newFS(t, host, func(c *Config) { c.Exports[0].Name = "" })
	guest := mount(t, fs)
	if got := readFile(t, filepath.Join(guest, "d/f")); got != "text" {
		t.Errorf("read %q", got)
	}
	writeFile(t, filepath.Join(guest, "new"), "from inside")
	if got := readFile(t, filepath.Join(host, "new")); got != "from inside" {
		t.Errorf("the host reads %q", got)
	}
	if h, g := stat(t, host), stat(t, guest); h.Ino != g.Ino || h.Mode != g.Mode {
		t.Errorf("the root is inode %d, mode %o on the host and %d, %o in the guest", h.Ino, h.Mode, g.Ino, g.Mode)
	}
	if err := fs.Add(exportOf(t, "other", t.TempDir())); err == nil {
		t.Error("an export beside the root was accepted")
	}
	if err := fs.Remove(""); err != nil {
		t.Fatal(err)
	}
	if err := fs.Add(exportOf(t, "other", t.TempDir())); err != nil {
		t.Errorf("after the root was removed: %v", err)
	}
	if err := fs.Add(exportOf(t, "", t.TempDir())); err == nil {
		t.Error("a root was accepted beside another export")
	}
}

// TestExportNames: what cannot be exported is refused in words. Contract: E3.
func TestExportNames(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	writeFile(t, file, "")
	check(t, unix.Mkfifo(fifo, 0o600))
	for _, tt := range []struct{ name, path, want string }{
		{"/a", dir, "shortest form"},
		{"a/", dir, "shortest form"},
		{"a/../b", dir, "shortest form"},
		{"./a", dir, "shortest form"},
		{strings.Repeat("a", 256), dir, "shortest form"},
		{"c/0", dir, "in use"},
		{"c/0/x", dir, "inside another export"},
		{"c", dir, "in use"},
		{"", file, "only export"},
		{"fifo", fifo, "neither a directory nor a regular file"},
		{"proc", "/proc", "procfs"},
		{"sys", "/sys", "sysfs"},
	} {
		fs := newFS(t, dir)
		if err := fs.Add(exportOf(t, tt.name, tt.path)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("export %q of %s: %v, want %q", tt.name, tt.path, err, tt.want)
		}
		if n := len(fs.root.children); n != 1 {
			t.Errorf("export %q: %d names in the root afterwards", tt.name, n)
		}
	}
	if _, err := New(Config{Exports: []Export{exportOf(t, "", file)}}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file as the root: %v", err)
	}
}

// TestExportsComeAndGo while the guest uses them. Contract: E6.
func TestExportsComeAndGo(t *testing.T) {
	fs := newFS(t, t.TempDir())
	guest := mount(t, fs)
	second := t.TempDir()
	writeFile(t, filepath.Join(second, "f"), "second")
	check(t, fs.Add(exportOf(t, "c/1", second)))
	check(t, fs.Add(exportOf(t, "other/deep/0", filepath.Join(second, "f"))))
	if got := names(t, filepath.Join(guest, "c")); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("c holds %q", got)
	}
	if got := readFile(t, filepath.Join(guest, "other/deep/0")); got != "second" {
		t.Errorf("the single file holds %q", got)
	}
	f, err := os.Open(filepath.Join(guest, "c/1/f"))
	check(t, err)
	defer f.Close()
	for _, name := range []string{"c/1", "other/deep/0"} {
		check(t, fs.Remove(name))
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, unix.EBADF) && !errors.Is(err, unix.ESTALE) {
		t.Errorf("reading an open file of a removed export: %v", err)
	}
	if got := names(t, guest); !slices.Equal(got, []string{"c"}) {
		t.Errorf("the root holds %q", got)
	}
	if err := fs.Remove("c/1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	for end := time.Now().Add(5 * time.Second); atomic.LoadInt64(&fs.budget.used) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) { // the directories that were listed are released after close returned
			t.Fatalf("%d descriptors are held for one export", atomic.LoadInt64(&fs.budget.used))
		}
	}
}

// TestReadOnly: a read-only export refuses whatever changes something, also from a guest whose kernel does not. Contract: E4.
func TestReadOnly(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "text")
	g := newGuest(t, host, func(c *Config) { c.Exports[0].ReadOnly = true })
	dir := g.lookup(1, "c", "0")
	f := g.lookup(dir, "f")
	for name, code := range map[string]fuse.Status{
		"mkdir":    g.FS.Mkdir(nil, &fuse.MkdirIn{InHeader: g.header(dir)}, "d", &fuse.EntryOut{}),
		"mknod":    g.FS.Mknod(nil, &fuse.MknodIn{InHeader: g.header(dir), Mode: unix.S_IFREG}, "n", &fuse.EntryOut{}),
		"symlink":  g.FS.Symlink(nil, ptr(g.header(dir)), "t", "s", &fuse.EntryOut{}),
		"link":     g.FS.Link(nil, &fuse.LinkIn{InHeader: g.header(dir), Oldnodeid: f}, "l", &fuse.EntryOut{}),
		"unlink":   g.FS.Unlink(nil, ptr(g.header(dir)), "f"),
		"rmdir":    g.FS.Rmdir(nil, ptr(g.header(dir)), "f"),
		"rename":   g.FS.Rename(nil, &fuse.RenameIn{InHeader: g.header(dir), Newdir: dir}, "f", "g"),
		"create":   g.FS.Create(nil, &fuse.CreateIn{InHeader: g.header(dir), Flags: unix.O_RDWR}, "c", &fuse.CreateOut{}),
		"open":     g.FS.Open(nil, &fuse.OpenIn{InHeader: g.header(f), Flags: unix.O_WRONLY}, &fuse.OpenOut{}),
		"truncate": g.FS.Open(nil, &fuse.OpenIn{InHeader: g.header(f), Flags: unix.O_TRUNC}, &fuse.OpenOut{}),
		"tmpfile":  g.FS.Tmpfile(nil, &fuse.CreateIn{InHeader: g.header(dir), Flags: unix.O_RDWR}, &fuse.CreateOut{}),
		"setattr": g.FS.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: g.header(f), Valid: fuse.FATTR_MODE}},
			&fuse.AttrOut{}),
		"setxattr":    g.FS.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: g.header(f)}, "user.x", nil),
		"removexattr": g.FS.RemoveXAttr(nil, ptr(g.header(f)), "user.x"),
	} {
		if code != fuse.Status(unix.EROFS) {
			t.Errorf("%s: %v", name, code)
		}
	}
	fh := g.open(f, unix.O_RDONLY)
	if code := g.setLock(f, fh, 1, unix.F_WRLCK, 0, 9); code != fuse.EBADF {
		t.Errorf("a write lock: %v", code)
	}
	if code := g.setLock(f, fh, 1, unix.F_RDLCK, 0, 9); code != fuse.OK {
		t.Errorf("a read lock: %v", code)
	}
	if got := readFile(t, filepath.Join(host, "f")); got != "text" || len(names(t, host)) != 1 {
		t.Errorf("the host finds %q and %q", got, names(t, host))
	}
}

// TestSyntheticTree: above the exports there are directories that nobody can change. Contract: E1.
func TestSyntheticTree(t *testing.T) {
	fs := newFS(t, t.TempDir())
	check(t, fs.Add(exportOf(t, "c/1", t.TempDir())))
	guest := mount(t, fs)
	for dir, want := range map[string][]string{guest: {"c"}, filepath.Join(guest, "c"): {"0", "1"}} {
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("%s holds %q", dir, got)
		}
		if st := stat(t, dir); st.Mode != unix.S_IFDIR|0o555 || st.Uid != 0 {
			t.Errorf("%s: mode %o, owner %d", dir, st.Mode, st.Uid)
		}
		for what, err := range map[string]error{
			"mkdir": unix.Mkdir(filepath.Join(dir, "new"), 0o755), "create": openClose(filepath.Join(dir, "new"), unix.O_CREAT|unix.O_RDWR, 0o644),
			"link": unix.Symlink("x", filepath.Join(dir, "new")), "rmdir": unix.Rmdir(filepath.Join(dir, want[0])),
			"rename": unix.Rename(filepath.Join(dir, want[0]), filepath.Join(dir, "new")), "chmod": unix.Chmod(dir, 0o777),
			"xattr": unix.Setxattr(dir, "user.x", nil, 0), "tmpfile": openClose(dir, unix.O_TMPFILE|unix.O_RDWR, 0o644),
		} {
			if err == nil {
				t.Errorf("%s in %s", what, dir)
			}
		}
	}
	if got := names(t, filepath.Join(guest, "c")); len(got) != 2 {
		t.Errorf("c holds %q", got)
	}
}

// TestBetweenExports: two exports are two file systems, also on one host file system and for a guest that knows better.
// Contract: P1, P3, P5.
func TestBetweenExports(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "0/f"), "text")
	writeFile(t, filepath.Join(host, "1/g"), "other")
	g := newGuest(t, filepath.Join(host, "0"))
	check(t, g.Add(exportOf(t, "c/1", filepath.Join(host, "1"))))
	a, b := g.top(), g.lookup(fuse.FUSE_ROOT_ID, "c", "1")
	f, to := g.lookup(a, "f"), g.lookup(b, "g")
	_, cp := g.CopyFileRange(nil, &fuse.CopyFileRangeIn{
		InHeader: g.header(f), FhIn: g.open(f, unix.O_RDONLY), NodeIdOut: to, FhOut: g.open(to, unix.O_RDWR), Len: 4,
	})
	for what, code := range map[string]fuse.Status{
		"rename":   g.Rename(nil, &fuse.RenameIn{InHeader: g.header(a), Newdir: b}, "f", "f"),
		"exchange": g.Rename(nil, &fuse.RenameIn{InHeader: g.header(a), Newdir: b, Flags: unix.RENAME_EXCHANGE}, "f", "g"),
		"link":     g.Link(nil, &fuse.LinkIn{InHeader: g.header(b), Oldnodeid: f}, "f", &fuse.EntryOut{}),
		"copy":     cp,
	} {
		if code != fuse.EXDEV {
			t.Errorf("%s: %v", what, code)
		}
	}
}
