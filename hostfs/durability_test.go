package hostfs

import (
	"bufio"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// serveEnv has this test binary serve a directory until it is killed: the directory and the mount point, separated by a colon.
const serveEnv = "HOSTFS_TEST_SERVE"

func TestMain(m *testing.M) {
	if v := os.Getenv(serveEnv); v != "" {
		serveUntilKilled(filepath.SplitList(v))
	}
	os.Exit(m.Run())
}

func serveUntilKilled(dirs []string) {
	dir, err := os.Open(dirs[0])
	if err != nil {
		panic(err)
	}
	fs, err := New(Config{Exports: []Export{{Dir: dir}}})
	if err != nil {
		panic(err)
	}
	opts := fs.Options()
	opts.DirectMountStrict = true
	srv, err := fuse.NewServer(fs, dirs[1], opts)
	if err != nil {
		panic(err)
	}
	go srv.Serve()
	if err := srv.WaitMount(); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	select {}
}

// TestKilledServer: what was written is the host's when write returned, whatever becomes of the monitor; locks end with it.
// Contract: D1.
func TestKilledServer(t *testing.T) {
	need.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		need.Lacking(t, need.FUSE, "FUSE: %v", err)
	}
	host, guest := t.TempDir(), t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+host+":"+guest)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { _ = unix.Unmount(guest, unix.MNT_DETACH) }()
	defer func() { _ = cmd.Process.Kill() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	closed := make([]byte, 1<<20)
	for i := range closed {
		closed[i] = byte(i * 7)
	}
	check(t, os.WriteFile(filepath.Join(guest, "closed"), closed, 0o644))
	check(t, os.Rename(filepath.Join(guest, "closed"), filepath.Join(guest, "renamed")))
	f, err := os.Create(filepath.Join(guest, "open"))
	check(t, err)
	defer f.Close()
	_, err = f.WriteString("written, not closed")
	check(t, err)
	check(t, f.Truncate(1<<16))
	b, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	defer func() { _ = unix.Munmap(b) }()
	copy(b[4096:], "synchronized")
	check(t, unix.Msync(b, unix.MS_SYNC))
	check(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))

	check(t, cmd.Process.Signal(unix.SIGKILL))
	_ = cmd.Wait()
	if got := readFile(t, filepath.Join(host, "renamed")); got != string(closed) {
		t.Errorf("the closed file has %d bytes, or others", len(got))
	}
	got := readFile(t, filepath.Join(host, "open"))
	if len(got) != 1<<16 || got[:19] != "written, not closed" || got[4096:4108] != "synchronized" {
		t.Errorf("the open file holds %d bytes: %.20q", len(got), got)
	}
	h, err := os.Open(filepath.Join(host, "open"))
	check(t, err)
	defer h.Close()
	check(t, unix.Flock(int(h.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

// TestSync: fsync, fdatasync, fsync of a directory and syncfs are the host's, and say so when they fail. Contract: D2.
func TestSync(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "f"), "text")
	for _, name := range []string{"f", "."} {
		f, err := os.Open(filepath.Join(guest, name))
		check(t, err)
		defer f.Close()
		check(t, unix.Fsync(int(f.Fd())))
		check(t, unix.Fdatasync(int(f.Fd())))
		check(t, unix.Syncfs(int(f.Fd())))
	}
	g := newGuest(t, host)
	node := g.lookup(g.top(), "f")
	if code := g.SyncFS(g.top()); code != fuse.OK {
		t.Errorf("syncfs: %v", code)
	}
	if code := g.SyncFS(1); code != fuse.OK {
		t.Errorf("syncfs of all: %v", code)
	}
	fh := g.open(node, unix.O_RDONLY)
	g.mu.Lock()
	fd := g.handles[fh].fd
	g.mu.Unlock()
	check(t, unix.Dup3(g.pipe(), fd, unix.O_CLOEXEC)) // a descriptor that cannot be synchronized
	if code := g.Fsync(nil, &fuse.FsyncIn{InHeader: g.header(node), Fh: fh}); code != fuse.EINVAL {
		t.Errorf("the host's error: %v", code)
	}
}

// pipe is the reading end of a pipe.
func (g *guest) pipe() int {
	g.t.Helper()
	var p [2]int
	check(g.t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	g.t.Cleanup(func() {
		unix.Close(p[0])
		unix.Close(p[1])
	})
	return p[0]
}

// TestNegotiated: what the server asks the guest's kernel for at FUSE_INIT, when that offers everything, and what it does not: a cache
// that is written back later, and a DAX window. Contract: D1, M2.
func TestNegotiated(t *testing.T) {
	fs := newFS(t, t.TempDir())
	in := make([]byte, 104) // struct fuse_in_header, struct fuse_init_in
	le := binary.LittleEndian
	le.PutUint32(in, uint32(len(in)))
	le.PutUint32(in[4:], 26) // FUSE_INIT
	le.PutUint64(in[8:], 1)
	for i, v := range []uint32{7, 40, 1 << 20, ^uint32(0), ^uint32(0)} {
		le.PutUint32(in[40+4*i:], v)
	}
	out := make([]byte, 80)
	if n, code := fs.NewSession().HandleRequest([][]byte{in}, [][]byte{out}); code != fuse.OK || n != len(out) {
		t.Fatalf("INIT: %v, %d bytes", code, n)
	}
	flags := uint64(le.Uint32(out[16+12:])) | uint64(le.Uint32(out[16+32:]))<<32
	for name, want := range map[string]uint64{
		"POSIX_LOCKS": 1 << 1, "ATOMIC_O_TRUNC": 1 << 3, "DONT_MASK": 1 << 6, "FLOCK_LOCKS": 1 << 10, "AUTO_INVAL_DATA": 1 << 12,
		"POSIX_ACL": 1 << 20, "SUBMOUNTS": 1 << 27, "HANDLE_KILLPRIV_V2": 1 << 28, "SETXATTR_EXT": 1 << 29,
	} {
		if flags&want == 0 {
			t.Errorf("FUSE_%s is not asked for: %#x", name, flags)
		}
	}
	for name, not := range map[string]uint64{
		"WRITEBACK_CACHE": 1 << 16, "NO_OPEN_SUPPORT": 1 << 17, "CACHE_SYMLINKS": 1 << 23, "NO_OPENDIR_SUPPORT": 1 << 24,
		"MAP_ALIGNMENT": 1 << 26, "HAS_INODE_DAX": 1 << 33, "PASSTHROUGH": 1 << 37,
		"ALLOW_IDMAP": 1 << 40, // with it only requests that make an inode say whose they are, and A1 needs the others' too
	} {
		if flags&not != 0 {
			t.Errorf("FUSE_%s is asked for: %#x", name, flags)
		}
	}
}
