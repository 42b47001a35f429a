package hostfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestHostChangesAreSeen: whatever the guest knew before, its next open or path walk sees the host's change. Contract: C1.
func TestHostChangesAreSeen(t *testing.T) {
	host, guest := mounted(t)
	in := func(names ...string) string { return filepath.Join(append([]string{guest}, names...)...) }
	out := func(names ...string) string { return filepath.Join(append([]string{host}, names...)...) }

	t.Run("content", func(t *testing.T) {
		for i := range 50 {
			text := strings.Repeat(string(rune('a'+i%26)), 5000) // always the same size
			writeFile(t, out("content"), text)
			if got := readFile(t, in("content")); got != text {
				t.Fatalf("round %d: the guest reads %.10q", i, got)
			}
		}
	})
	t.Run("attributes", func(t *testing.T) {
		writeFile(t, out("attr"), "1")
		stat(t, in("attr"))
		check(t, os.Truncate(out("attr"), 1000))
		check(t, os.Chmod(out("attr"), 0o640))
		check(t, os.Chtimes(out("attr"), time.Unix(1, 2), time.Unix(3, 4)))
		if st := stat(t, in("attr")); st.Size != 1000 || st.Mode != unix.S_IFREG|0o640 || st.Mtim != (unix.Timespec{Sec: 3, Nsec: 4}) {
			t.Errorf("%+v", st)
		}
	})
	t.Run("names", func(t *testing.T) {
		absent(t, in("name"))
		writeFile(t, out("name"), "here")
		if got := readFile(t, in("name")); got != "here" {
			t.Errorf("read %q", got)
		}
		check(t, os.Rename(out("name"), out("renamed")))
		absent(t, in("name"))
		if got := readFile(t, in("renamed")); got != "here" {
			t.Errorf("read %q", got)
		}
		check(t, os.Mkdir(out("name"), 0o755)) // of another type than before
		if st := stat(t, in("name")); st.Mode != unix.S_IFDIR|0o755 {
			t.Errorf("mode %o", st.Mode)
		}
		check(t, os.Remove(out("renamed")))
		absent(t, in("renamed"))
	})
	t.Run("listing", func(t *testing.T) {
		check(t, os.Mkdir(out("list"), 0o755))
		for _, name := range []string{"a", "b", "c"} {
			writeFile(t, out("list", name), "")
			if got, want := names(t, in("list")), names(t, out("list")); !slices.Equal(got, want) {
				t.Errorf("the guest lists %q, the host %q", got, want)
			}
		}
	})
	t.Run("symbolic link swap", func(t *testing.T) { // as ConfigMaps are updated
		for i, v := range []string{"v1", "v2", "v3", "v4"} {
			writeFile(t, out("cm", v, "key"), v)
			check(t, os.Symlink(v, out("cm", "..tmp")))
			check(t, os.Rename(out("cm", "..tmp"), out("cm", "..data")))
			if i == 0 {
				check(t, os.Symlink("..data/key", out("cm", "key")))
			}
			if got := readFile(t, in("cm", "key")); got != v {
				t.Errorf("the guest reads %q after the swap to %q", got, v)
			}
		}
	})
	t.Run("replaced by rename", func(t *testing.T) { // as editors and podman cp save
		for _, text := range []string{"one", "two"} {
			writeFile(t, out("new"), text)
			check(t, os.Rename(out("new"), out("saved")))
			if got := readFile(t, in("saved")); got != text {
				t.Errorf("the guest reads %q, want %q", got, text)
			}
		}
	})
}

func absent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it not to exist", path, err)
	}
}

// TestReadOfOpenFile: a file that is open shows what the host appended, and what it changed at another time than before.
// Contract: C2.
func TestReadOfOpenFile(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "f"), "first ")
	f, err := os.Open(filepath.Join(guest, "f"))
	check(t, err)
	defer f.Close()
	h, err := os.OpenFile(filepath.Join(host, "f"), os.O_RDWR, 0)
	check(t, err)
	defer h.Close()
	read := func() string {
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0)
		return string(b[:n])
	}
	if got := read(); got != "first " {
		t.Fatalf("read %q", got)
	}
	_, err = h.WriteAt([]byte("second"), 6)
	check(t, err)
	if got := read(); got != "first second" {
		t.Errorf("after an append: %q", got)
	}
	_, err = h.WriteAt([]byte("FIRST"), 0)
	check(t, err)
	check(t, os.Chtimes(h.Name(), time.Now(), time.Now().Add(time.Hour))) // a clock tick, without waiting for one
	if got := read(); got != "FIRST second" {
		t.Errorf("after a change in place: %q", got)
	}
}

// TestGuestWritesAreSeen: what a write of the guest's returned from, the host's next read sees. Contract: C3.
func TestGuestWritesAreSeen(t *testing.T) {
	host, guest := mounted(t)
	f, err := os.Create(filepath.Join(guest, "f"))
	check(t, err)
	defer f.Close()
	want := ""
	for _, piece := range []string{"small", strings.Repeat("large", 100_000), "tail"} {
		_, err = f.WriteString(piece)
		check(t, err)
		want += piece
		if got := readFile(t, filepath.Join(host, "f")); got != want {
			t.Fatalf("the host reads %d bytes, want %d", len(got), len(want))
		}
	}
	if st := stat(t, filepath.Join(host, "f")); st.Size != int64(len(want)) {
		t.Errorf("size %d", st.Size)
	}
}

// TestNoWritebackCache: the guest is told to write through. Contract: D1.
func TestNoWritebackCache(t *testing.T) {
	opts := newFS(t, t.TempDir()).Options()
	for name, c := range map[string]uint64{
		"writeback cache": fuse.CAP_WRITEBACK_CACHE, "symlink cache": fuse.CAP_CACHE_SYMLINKS, "passthrough": fuse.CAP_PASSTHROUGH,
	} {
		if opts.DisabledCapabilities&c == 0 {
			t.Errorf("%s is not disabled", name)
		}
	}
	if opts.ExplicitDataCacheControl {
		t.Error("cached data does not follow the modification time")
	}
}

// peek and poke touch mapped memory in a system call. A page fault in Go code would wait for this process's own file server
// with all of the scheduler: the garbage collector stops neither that thread nor, until it has, anything else.
func peek(t *testing.T, b []byte) string {
	t.Helper()
	return string(throughPipe(t, b, make([]byte, len(b))))
}

func poke(t *testing.T, b []byte, text string) {
	t.Helper()
	throughPipe(t, []byte(text), b[:len(text)])
}

func throughPipe(t *testing.T, from, to []byte) []byte {
	t.Helper()
	var p [2]int
	check(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if n, err := unix.Write(p[1], from); err != nil || n != len(from) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if n, err := unix.Read(p[0], to); err != nil || n != len(from) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	return to
}

// TestMapping: stores to a shared mapping reach the host with msync, munmap or fsync; a mapping made after the host's change shows it.
// Contract: M1.
func TestMapping(t *testing.T) {
	host, guest := mounted(t)
	path := filepath.Join(host, "f")
	writeFile(t, path, strings.Repeat(".", 8192))
	mapped := func(do func(f *os.File, b []byte)) {
		f, err := os.OpenFile(filepath.Join(guest, "f"), os.O_RDWR, 0)
		check(t, err)
		defer f.Close()
		b, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		check(t, err)
		do(f, b)
		check(t, unix.Munmap(b))
	}
	expect := func(how, want string) {
		t.Helper()
		if got := readFile(t, path); !strings.HasPrefix(got, want) {
			t.Errorf("after %s the host reads %.8q, want %q", how, got, want)
		}
	}
	mapped(func(_ *os.File, b []byte) {
		poke(t, b, "msync")
		check(t, unix.Msync(b, unix.MS_SYNC))
		expect("msync", "msync")
	})
	mapped(func(f *os.File, b []byte) {
		poke(t, b, "fsync")
		check(t, f.Sync())
		expect("fsync", "fsync")
	})
	mapped(func(_ *os.File, b []byte) { poke(t, b, "unmap") })
	expect("munmap", "unmap")

	h, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer h.Close()
	_, err = h.WriteAt([]byte("outer"), 0)
	check(t, err)
	mapped(func(_ *os.File, b []byte) {
		if got := peek(t, b[:8]); !strings.HasPrefix(got, "outer") {
			t.Errorf("a new mapping shows %q", got)
		}
	})
}

// TestDirectIO: O_DIRECT goes past the guest's cache; the host's serves it, so it needs no alignment of the host's. Contract: C6.
func TestDirectIO(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "f"), strings.Repeat("a", 8192))
	f, err := os.OpenFile(filepath.Join(guest, "f"), os.O_RDWR|unix.O_DIRECT, 0)
	check(t, err)
	defer f.Close()
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	check(t, err)
	defer func() { _ = unix.Munmap(b) }()
	for _, text := range []string{"b", "c"} {
		h, err := os.OpenFile(filepath.Join(host, "f"), os.O_RDWR, 0)
		check(t, err)
		_, err = h.WriteAt([]byte(strings.Repeat(text, 4096)), 4096)
		check(t, err)
		check(t, h.Close())
		_, err = f.ReadAt(b, 4096)
		check(t, err)
		if string(b) != strings.Repeat(text, 4096) {
			t.Errorf("read %.8q, want %q", b, text)
		}
	}
	copy(b, "written")
	_, err = f.WriteAt(b, 0)
	check(t, err)
	if got := readFile(t, filepath.Join(host, "f")); !strings.HasPrefix(got, "written") {
		t.Errorf("the host reads %.8q", got)
	}
}

// TestCachePolicy: nothing may be cached unless the export says for how long. Contract: C4.
func TestCachePolicy(t *testing.T) {
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "")
	policy := CachePolicy{Entry: time.Hour, Attr: time.Minute, Negative: time.Second, KeepCache: true}
	for _, want := range []CachePolicy{{}, policy} {
		g := newGuest(t, host, func(c *Config) { c.Exports[0].Cache = want })
		top := g.top()
		e := g.entry(top, "f")
		if e.EntryTimeout() != want.Entry || e.AttrTimeout() != want.Attr {
			t.Errorf("%+v: entry %v, attributes %v", want, e.EntryTimeout(), e.AttrTimeout())
		}
		var attr fuse.AttrOut
		code := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: g.header(e.NodeId)}, &attr)
		if code != fuse.OK || attr.Timeout() != want.Attr {
			t.Errorf("%+v: %v, attributes %v", want, code, attr.Timeout())
		}
		var none fuse.EntryOut
		code = g.Lookup(nil, ptr(g.header(top)), "none", &none)
		if want.Negative == 0 && code != fuse.ENOENT || want.Negative != 0 && (code != fuse.OK || none.NodeId != 0 || none.EntryTimeout() != want.Negative) {
			t.Errorf("%+v: %v, %+v", want, code, none)
		}
		var open fuse.OpenOut
		code = g.Open(nil, &fuse.OpenIn{InHeader: g.header(e.NodeId)}, &open)
		if code != fuse.OK || (open.OpenFlags&fuse.FOPEN_KEEP_CACHE != 0) != want.KeepCache || open.OpenFlags&fuse.FOPEN_CACHE_DIR != 0 {
			t.Errorf("%+v: %v, open flags %#x", want, code, open.OpenFlags)
		}
	}
}

// TestTwoGuests: two VMs that share a directory see each other as they see the host. Contract: C5.
func TestTwoGuests(t *testing.T) {
	host, a := mounted(t)
	b := filepath.Join(mount(t, newFS(t, host)), "c/0")
	for i, side := range []string{a, b, a, b} {
		text := strings.Repeat(string(rune('a'+i)), 100)
		other := []string{b, a}[i%2]
		writeFile(t, filepath.Join(side, "f"), text)
		if got := readFile(t, filepath.Join(other, "f")); got != text {
			t.Errorf("round %d: the other guest reads %.5q", i, got)
		}
	}
	check(t, os.Rename(filepath.Join(a, "f"), filepath.Join(a, "g")))
	absent(t, filepath.Join(b, "f"))
	fa, err := os.Open(filepath.Join(a, "g"))
	check(t, err)
	defer fa.Close()
	fb, err := os.Open(filepath.Join(b, "g"))
	check(t, err)
	defer fb.Close()
	check(t, unix.Flock(int(fa.Fd()), unix.LOCK_EX))
	if err := unix.Flock(int(fb.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("both guests have the lock: %v", err)
	}
	check(t, unix.Flock(int(fa.Fd()), unix.LOCK_UN))
	check(t, unix.Flock(int(fb.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

// TestInotify: a watch in the guest reports what the guest does, and is silent about the host. Contract: N1.
func TestInotify(t *testing.T) {
	host, guest := mounted(t)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	check(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, guest, unix.IN_CREATE)
	check(t, err)
	writeFile(t, filepath.Join(host, "outside"), "")
	writeFile(t, filepath.Join(guest, "inside"), "")
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	check(t, err)
	name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:n], "\x00"))
	if name != "inside" {
		t.Errorf("the first event is of %q", name)
	}
}

// TestMappedPage: a page that a program has mapped stays as it was, until somebody in the guest looks at the file. Contract: M3.
func TestMappedPage(t *testing.T) {
	host, guest := mounted(t)
	path := filepath.Join(host, "f")
	writeFile(t, path, strings.Repeat("a", 4096))
	f, err := os.Open(filepath.Join(guest, "f"))
	check(t, err)
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	defer func() { check(t, unix.Munmap(b)) }()
	if got := peek(t, b[:1]); got != "a" {
		t.Fatalf("mapped %q", got)
	}
	h, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer h.Close()
	_, err = h.WriteAt([]byte(strings.Repeat("b", 4096)), 0)
	check(t, err)
	check(t, os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)))
	if got := peek(t, b[:1]); got != "a" {
		t.Errorf("the mapping shows %q at once: the contract can promise more", got)
	}
	stat(t, filepath.Join(guest, "f"))
	if got := peek(t, b[:1]); got != "b" {
		t.Errorf("after a stat the mapping shows %q", got)
	}
}
