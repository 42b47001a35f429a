package hostfs

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// mountTmpfs mounts a tmpfs on a new directory.
func mountTmpfs(t testing.TB, dir string) {
	t.Helper()
	need.Root(t)
	check(t, os.MkdirAll(dir, 0o755))
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// TestInodeNumbers are the host's, the same however a file is reached, and stay when the guest forgets. Contract: I1.
func TestInodeNumbers(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "d/f"), "")
	check(t, os.Link(filepath.Join(host, "d/f"), filepath.Join(host, "hard")))
	for _, name := range []string{".", "d", "d/f", "hard"} {
		h, g := stat(t, filepath.Join(host, name)), stat(t, filepath.Join(guest, name))
		if h.Ino != g.Ino || h.Nlink != g.Nlink {
			t.Errorf("%s: inode %d with %d links on the host, %d with %d in the guest", name, h.Ino, h.Nlink, g.Ino, g.Nlink)
		}
	}
	g := newGuest(t, host)
	top := g.top()
	a, b := g.entry(g.lookup(top, "d"), "f"), g.entry(top, "hard")
	if a.NodeId != b.NodeId {
		t.Errorf("two names of a file are nodes %d and %d", a.NodeId, b.NodeId)
	}
	g.Forget(a.NodeId, 2)
	if c := g.entry(top, "hard"); c.Ino != a.Ino || c.NodeId == a.NodeId {
		t.Errorf("forgotten and found again: inode %d, was %d; node %d, was %d", c.Ino, a.Ino, c.NodeId, a.NodeId)
	}
}

// TestSubmounts: each file system is a device of its own in the guest, so that equal inode numbers do not meet. A single file that was
// mounted has a number of its own. Contract: I2.
func TestSubmounts(t *testing.T) {
	need.Root(t)
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "plain/f"), "")
	for _, dir := range []string{"one", "two"} {
		mountTmpfs(t, filepath.Join(host, dir))
		writeFile(t, filepath.Join(host, dir, "f"), dir)
	}
	if a, b := stat(t, filepath.Join(host, "one/f")), stat(t, filepath.Join(host, "two/f")); a.Ino != b.Ino {
		t.Fatalf("inode numbers %d and %d: the test needs equal ones", a.Ino, b.Ino)
	}
	var single [2]string
	for i, dir := range []string{"one", "two"} {
		single[i] = filepath.Join(host, "single"+dir)
		writeFile(t, single[i], "")
		check(t, unix.Mount(filepath.Join(host, dir, "f"), single[i], "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(single[i], unix.MNT_DETACH) })
	}
	g := newGuest(t, host)
	submount := func(e *fuse.EntryOut) bool { return e.Flags&fuse.ATTR_SUBMOUNT != 0 }
	if !submount(g.entry(g.lookup(fuse.FUSE_ROOT_ID, "c"), "0")) {
		t.Error("an export is not a submount")
	}
	top := g.top()
	if submount(g.entry(top, "plain")) {
		t.Error("a directory of the same file system is a submount")
	}
	var seen []uint64
	for _, dir := range []string{"one", "two"} {
		if e := g.entry(top, dir); !submount(e) {
			t.Errorf("%s is not a submount", dir)
		} else if f := g.entry(e.NodeId, "f"); submount(f) || f.Ino >= foreignIno {
			t.Errorf("the file on %s has number %#x, flags %#x", dir, f.Ino, f.Flags)
		}
		e := g.entry(top, "single"+dir)
		if e.Ino < foreignIno || slices.Contains(seen, e.Ino) {
			t.Errorf("the single file of %s has number %#x, others %#x", dir, e.Ino, seen)
		}
		seen = append(seen, e.Ino)
		var attr fuse.AttrOut
		if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(e.NodeId)}, &attr); code != fuse.OK || attr.Ino != e.Ino {
			t.Errorf("GETATTR: %v, number %#x", code, attr.Ino)
		}
		g.Forget(e.NodeId, 1)
		if again := g.entry(top, "single"+dir); again.Ino != e.Ino {
			t.Errorf("the single file of %s had number %#x, has %#x", dir, e.Ino, again.Ino)
		}
	}
}

// TestMainExport: one export is no file system of its own in the guest, but a part of the root's; what is mounted below it is one, and so are
// other exports. Contract: I2.
func TestMainExport(t *testing.T) {
	need.Root(t)
	host, other := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(host, "m"), 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, filepath.Join(host, "m"))
	g := newGuest(t, host, func(c *Config) {
		c.Exports[0].Main = true
		c.Exports = append(c.Exports, exportOf(t, "c/1", other))
	})
	c := g.lookup(fuse.FUSE_ROOT_ID, "c")
	for name, want := range map[string]bool{"0": false, "1": true} {
		if got := g.entry(c, name).Flags&fuse.ATTR_SUBMOUNT != 0; got != want {
			t.Errorf("export %s is a submount: %v", name, got)
		}
	}
	if g.entry(g.top(), "m").Flags&fuse.ATTR_SUBMOUNT == 0 {
		t.Error("what is mounted below the main export is no submount")
	}
	second := exportOf(t, "c/2", other)
	second.Main = true
	if err := g.Add(second); err == nil || !strings.Contains(err.Error(), `export "c/0" is the main one already`) {
		t.Errorf("a second main export: %v", err)
	}
	if err := g.Remove("c/0"); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(second); err != nil {
		t.Errorf("a main export after the one before is gone: %v", err)
	}
	file := filepath.Join(other, "f")
	writeFile(t, file, "")
	single := exportOf(t, "single", file)
	single.Main = true
	if _, err := New(Config{Exports: []Export{single}}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file as the main export: %v", err)
	}
}

// TestUnmountWaits: a mount below an export cannot be taken away while the guest remembers something of it. Contract: E7.
func TestUnmountWaits(t *testing.T) {
	host := t.TempDir()
	dir := filepath.Join(host, "m")
	need.Root(t)
	check(t, os.Mkdir(dir, 0o755))
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	g := newGuest(t, host)
	node := g.lookup(g.top(), "m")
	if err := unix.Unmount(dir, 0); err != unix.EBUSY {
		t.Errorf("unmount: %v, want EBUSY", err)
	}
	g.Forget(node, 1)
	check(t, unix.Unmount(dir, 0))
}

// TestNodesFollowFiles, not names: the host may rename what the guest uses. Contract: I3.
func TestNodesFollowFiles(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "d/f"), "old")
	f, err := os.OpenFile(filepath.Join(guest, "d/f"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	d, err := os.Open(filepath.Join(guest, "d"))
	check(t, err)
	defer d.Close()
	check(t, os.Rename(filepath.Join(host, "d"), filepath.Join(host, "e")))
	writeFile(t, filepath.Join(host, "d/f"), "another file")
	_, err = f.WriteAt([]byte("new"), 0)
	check(t, err)
	if got := readFile(t, filepath.Join(host, "e/f")); got != "new" {
		t.Errorf("the open file holds %q", got)
	}
	if got := readFile(t, filepath.Join(host, "d/f")); got != "another file" {
		t.Errorf("the file at the old place holds %q", got)
	}
	fd, err := unix.Openat(int(d.Fd()), "f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	viaDir := os.NewFile(uintptr(fd), "f")
	defer viaDir.Close()
	if got, err := io.ReadAll(viaDir); err != nil || string(got) != "new" {
		t.Errorf("through the open directory: %q, %v", got, err)
	}
}

// TestUnlinkedFiles stay as long as they are open, in the guest and on the host. Contract: I5.
func TestUnlinkedFiles(t *testing.T) {
	host, guest := mounted(t)
	for _, side := range []string{host, guest} {
		writeFile(t, filepath.Join(guest, "f"), "text")
		f, err := os.OpenFile(filepath.Join(guest, "f"), os.O_RDWR, 0)
		check(t, err)
		defer f.Close()
		check(t, os.Remove(filepath.Join(side, "f")))
		_, err = f.WriteAt([]byte(" and more"), 4)
		check(t, err)
		check(t, f.Chmod(0o600))
		check(t, f.Truncate(8))
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0)
		fi, err := f.Stat()
		check(t, err)
		if string(b[:n]) != "text and" || fi.Mode() != 0o600 || fi.Size() != 8 {
			t.Errorf("unlinked: %q, %v, %d bytes", b[:n], fi.Mode(), fi.Size())
		}
		if st, ok := fi.Sys().(*unix.Stat_t); ok && st.Nlink != 0 {
			t.Errorf("%d links", st.Nlink)
		}
	}
	if left := names(t, host); left != nil {
		t.Errorf("left: %q", left)
	}
}

// TestSpecialFiles are names on the host, and come to life in the guest alone. Contract: S2.
func TestSpecialFiles(t *testing.T) {
	host, guest := mounted(t)
	t.Run("FIFO", func(t *testing.T) {
		check(t, unix.Mkfifo(filepath.Join(guest, "fifo"), 0o600))
		if st := stat(t, filepath.Join(host, "fifo")); st.Mode != unix.S_IFIFO|0o600 {
			t.Errorf("mode %o on the host", st.Mode)
		}
		inside, err := os.OpenFile(filepath.Join(guest, "fifo"), os.O_RDWR, 0)
		check(t, err)
		defer inside.Close()
		_, err = inside.WriteString("inside")
		check(t, err)
		fd, err := unix.Open(filepath.Join(host, "fifo"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		check(t, err)
		defer unix.Close(fd)
		b := make([]byte, 100)
		if n, err := unix.Read(fd, b); n != 0 || err != nil {
			t.Errorf("the host's end of the FIFO reads %d bytes, %v: it is the guest's pipe", n, err)
		}
		if n, err := inside.Read(b); string(b[:n]) != "inside" || err != nil {
			t.Errorf("the guest's end reads %q, %v", b[:n], err)
		}
	})
	t.Run("socket", func(t *testing.T) {
		l, err := net.Listen("unix", filepath.Join(guest, "in.sock"))
		check(t, err)
		defer l.Close()
		if st := stat(t, filepath.Join(host, "in.sock")); st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Errorf("mode %o on the host", st.Mode)
		}
		c, err := net.Dial("unix", filepath.Join(guest, "in.sock"))
		check(t, err)
		c.Close()
		if _, err := net.Dial("unix", filepath.Join(host, "in.sock")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the host connects to the guest's socket: %v", err)
		}
		out, err := net.Listen("unix", filepath.Join(host, "out.sock"))
		check(t, err)
		defer out.Close()
		if _, err := net.Dial("unix", filepath.Join(guest, "out.sock")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the guest connects to the host's socket: %v", err)
		}
	})
	t.Run("device", func(t *testing.T) {
		const null = 1<<8 | 3
		check(t, unix.Mknod(filepath.Join(guest, "null"), unix.S_IFCHR|0o666, null))
		if st := stat(t, filepath.Join(host, "null")); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != null {
			t.Errorf("mode %o, device %#x on the host", st.Mode, st.Rdev)
		}
		if st := stat(t, filepath.Join(guest, "null")); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != null {
			t.Errorf("mode %o, device %#x in the guest", st.Mode, st.Rdev)
		}
	})
}

// TestSpecialFilesAreNotOpened on the host, also for a guest that asks for it; and the server does not wait for a FIFO's other end.
// Contract: S1.
func TestSpecialFilesAreNotOpened(t *testing.T) {
	need.Root(t)
	host := t.TempDir()
	check(t, unix.Mkfifo(filepath.Join(host, "fifo"), 0o600))
	check(t, unix.Mknod(filepath.Join(host, "null"), unix.S_IFCHR|0o666, 1<<8|3))
	check(t, unix.Mknod(filepath.Join(host, "socket"), unix.S_IFSOCK|0o666, 0))
	check(t, os.Symlink("/etc/passwd", filepath.Join(host, "link")))
	g := newGuest(t, host)
	top := g.top()
	for _, name := range []string{"fifo", "null", "socket", "link"} {
		node := g.lookup(top, name)
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC} {
			if code := g.Open(nil, &fuse.OpenIn{InHeader: g.header(node), Flags: flags}, &fuse.OpenOut{}); code != fuse.Status(unix.ENXIO) {
				t.Errorf("open of %s with %#x: %v", name, flags, code)
			}
			code := g.Create(nil, &fuse.CreateIn{InHeader: g.header(top), Flags: flags | unix.O_CREAT, Mode: 0o644}, name, &fuse.CreateOut{})
			if code != fuse.Status(unix.ENXIO) && code != fuse.Status(unix.ESTALE) {
				t.Errorf("create of %s with %#x: %v", name, flags, code)
			}
		}
		if code := g.OpenDir(nil, &fuse.OpenIn{InHeader: g.header(node)}, &fuse.OpenOut{}); code != fuse.ENOTDIR {
			t.Errorf("opendir of %s: %v", name, code)
		}
		in := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: g.header(node), Valid: fuse.FATTR_SIZE}}
		if code := g.SetAttr(nil, in, &fuse.AttrOut{}); code != fuse.EINVAL {
			t.Errorf("truncate of %s: %v", name, code)
		}
		if code := g.SyncFS(node); code != fuse.EINVAL {
			t.Errorf("syncfs on %s: %v", name, code)
		}
	}
}

// TestParkedNodes: a guest may remember more files than this process may have descriptors. Contract: I4, R2.
func TestParkedNodes(t *testing.T) {
	host := t.TempDir()
	const files, limit = 1000, 100
	for i := range files {
		writeFile(t, filepath.Join(host, fileName(i)), fileName(i))
	}
	g := newGuest(t, host, func(c *Config) { c.Limits.MaxDescriptors = limit })
	top := g.top()
	nodes := make([]uint64, files)
	for i := range nodes {
		nodes[i] = g.lookup(top, fileName(i))
		if used := g.budget.used; used > limit {
			t.Fatalf("%d descriptors are in use", used)
		}
	}
	for i, node := range nodes {
		var out fuse.AttrOut
		if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(node)}, &out); code != fuse.OK || out.Size != uint64(len(fileName(i))) {
			t.Fatalf("file %d: %v, %d bytes", i, code, out.Size)
		}
		if again := g.lookup(top, fileName(i)); again != node {
			t.Fatalf("file %d was node %d, is %d", i, node, again)
		}
	}
}

func fileName(i int) string { return "file-" + time.Duration(i).String() }

// park makes sure that a node has no descriptor.
func (g *guest) park(node uint64) {
	g.t.Helper()
	g.FS.park(1000)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes[node].fd >= 0 {
		g.t.Fatalf("node %d is not parked", node)
	}
}

// TestParkedNodeIsNoOther: a parked node whose name or number went to another file is stale, and never that file. It matters most
// where the other file is a device. Contract: I4.
func TestParkedNodeIsNoOther(t *testing.T) {
	need.Root(t)
	for _, other := range []struct {
		name string
		make func(path string) error
	}{
		{"a file", func(p string) error { return os.WriteFile(p, []byte("other"), 0o600) }},
		{"a FIFO", func(p string) error { return unix.Mkfifo(p, 0o600) }},
		{"a device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, 1<<8|3) }},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }},
		{"a symbolic link", func(p string) error { return os.Symlink("/etc/passwd", p) }},
	} {
		t.Run(other.name, func(t *testing.T) {
			reused := false
			for range 20 {
				host := t.TempDir()
				path := filepath.Join(host, "f")
				writeFile(t, path, "mine")
				g := newGuest(t, host)
				top := g.top()
				node := g.lookup(top, "f")
				ino := stat(t, path).Ino
				g.park(node)
				check(t, os.Remove(path))
				time.Sleep(10 * time.Millisecond) // a tick of the clock that times of birth are taken from
				check(t, other.make(path))
				reused = reused || stat(t, path).Ino == ino
				if code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(node)}, &fuse.AttrOut{}); code != fuse.Status(unix.ESTALE) {
					t.Errorf("the parked node answers %v", code)
				}
				if again := g.lookup(top, "f"); again == node {
					t.Error("the other file got the parked node")
				}
				if code := g.Open(nil, &fuse.OpenIn{InHeader: g.header(node)}, &fuse.OpenOut{}); code != fuse.Status(unix.ESTALE) {
					t.Errorf("opening the parked node: %v", code)
				}
				if reused {
					return
				}
			}
			t.Log("the host's file system did not use the inode number again")
		})
	}
}
