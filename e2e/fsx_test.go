package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	fsxSeed = 4
	fsxOps  = 800
	fsxMax  = 256 << 10 // the longest file, in bytes
)

// fsx does random operations on a file, and on names for it, and compares with a model in memory.
type fsx struct {
	t     *testing.T
	dir   string
	name  string
	f     *os.File
	model []byte
	rnd   *rand.Rand
	log   hash.Hash // of all that was done and seen: equal for equal seeds, wherever it runs
	links int
}

// TestGuestFSX is run natively by TestFSX as well.
func TestGuestFSX(t *testing.T) { runFSX(t, inGuest(t)) }

func runFSX(t *testing.T, dir string) {
	t.Helper()
	x := &fsx{t: t, dir: dir, name: filepath.Join(dir, "file-0"), log: sha256.New(), rnd: rand.New(rand.NewPCG(fsxSeed, 0))}
	f, err := os.OpenFile(x.name, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	x.f = f
	defer func() { x.f.Close() }()
	ops := []struct {
		name string
		do   func() error
	}{
		{"write", x.write}, {"read", x.read}, {"truncate", x.truncate}, {"fallocate", x.fallocate}, {"punch", x.punch},
		{"mapread", x.mapRead}, {"mapwrite", x.mapWrite}, {"rename", x.rename}, {"link", x.link}, {"reopen", x.reopen},
		{"append", x.append}, {"copy", x.copyRange},
	}
	for i := range fsxOps {
		op := ops[x.rnd.IntN(len(ops))]
		if err := op.do(); err != nil {
			t.Fatalf("operation %d, %s: %v", i, op.name, err)
		}
		st, err := x.f.Stat()
		if err != nil || st.Size() != int64(len(x.model)) {
			t.Fatalf("operation %d, %s: size %d, %v; want %d", i, op.name, st.Size(), err, len(x.model))
		}
		fmt.Fprintf(x.log, "%s %d\n", op.name, len(x.model))
	}
	got, err := os.ReadFile(x.name)
	if err != nil || !bytes.Equal(got, x.model) {
		t.Fatalf("at the end: %d bytes, %v; the model has %d and differs", len(got), err, len(x.model))
	}
	x.log.Write(got)
	fmt.Printf("fsx digest %x\n", x.log.Sum(nil))
}

// span picks a piece of a file of n bytes.
func (x *fsx) span(n int) (int, int) {
	if n == 0 {
		return 0, 0
	}
	off := x.rnd.IntN(n)
	return off, min(x.rnd.IntN(32<<10)+1, n-off)
}

func (x *fsx) grow(n int) {
	if n > len(x.model) {
		x.model = append(x.model, make([]byte, n-len(x.model))...)
	}
}

func (x *fsx) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(x.rnd.Uint32())
	}
	return b
}

func (x *fsx) write() error {
	off, n := x.span(fsxMax)
	b := x.random(n)
	x.grow(off + n)
	copy(x.model[off:], b)
	_, err := x.f.WriteAt(b, int64(off))
	return err
}

func (x *fsx) append() error {
	n := min(x.rnd.IntN(8<<10), fsxMax-len(x.model))
	b := x.random(n)
	f, err := os.OpenFile(x.name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	x.model = append(x.model, b...)
	_, err = f.Write(b)
	return err
}

func (x *fsx) read() error {
	off, n := x.span(len(x.model))
	b := make([]byte, n)
	if _, err := x.f.ReadAt(b, int64(off)); err != nil {
		return err
	}
	return x.same(b, off)
}

func (x *fsx) same(b []byte, off int) error {
	if !bytes.Equal(b, x.model[off:off+len(b)]) {
		return fmt.Errorf("%d bytes at %d differ from what was written", len(b), off)
	}
	return nil
}

func (x *fsx) truncate() error {
	n := x.rnd.IntN(fsxMax)
	x.grow(n)
	clear(x.model[n:])
	x.model = x.model[:n]
	return x.f.Truncate(int64(n))
}

func (x *fsx) fallocate() error {
	off, n := x.span(fsxMax)
	x.grow(off + n)
	return unix.Fallocate(int(x.f.Fd()), 0, int64(off), int64(n))
}

func (x *fsx) punch() error {
	off, n := x.span(len(x.model))
	if n == 0 {
		return nil
	}
	clear(x.model[off : off+n])
	return unix.Fallocate(int(x.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
}

func (x *fsx) mapped(prot int, use func(b []byte) error) error {
	if len(x.model) == 0 {
		return nil
	}
	b, err := unix.Mmap(int(x.f.Fd()), 0, len(x.model), prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	return use(b)
}

func (x *fsx) mapRead() error {
	off, n := x.span(len(x.model))
	return x.mapped(unix.PROT_READ, func(b []byte) error { return x.same(b[off:off+n], off) })
}

func (x *fsx) mapWrite() error {
	off, n := x.span(len(x.model))
	data := x.random(n)
	copy(x.model[off:], data)
	return x.mapped(unix.PROT_READ|unix.PROT_WRITE, func(b []byte) error {
		copy(b[off:], data)
		return unix.Msync(b, unix.MS_SYNC)
	})
}

func (x *fsx) rename() error {
	x.links++
	name := filepath.Join(x.dir, fmt.Sprintf("file-%d", x.links))
	err := os.Rename(x.name, name)
	x.name = name
	return err
}

// link gives the file a second name and drops the first.
func (x *fsx) link() error {
	x.links++
	name := filepath.Join(x.dir, fmt.Sprintf("file-%d", x.links))
	if err := os.Link(x.name, name); err != nil {
		return err
	}
	err := os.Remove(x.name)
	x.name = name
	return err
}

func (x *fsx) reopen() error {
	if err := x.f.Close(); err != nil {
		return err
	}
	var err error
	x.f, err = os.OpenFile(x.name, os.O_RDWR, 0)
	return err
}

func (x *fsx) copyRange() error {
	if len(x.model) < 2 {
		return nil
	}
	half := len(x.model) / 2
	n := x.rnd.IntN(half) + 1
	from, to := int64(0), int64(half)
	n = min(n, len(x.model)-half)
	for left := n; left > 0; {
		k, err := unix.CopyFileRange(int(x.f.Fd()), &from, int(x.f.Fd()), &to, left, 0)
		if err != nil || k == 0 {
			return fmt.Errorf("%d bytes left, %w", left, err)
		}
		left -= k
	}
	copy(x.model[half:half+n], x.model[:n])
	return nil
}

// TestFSX does the same random operations here and on a volume in a guest.
func TestFSX(t *testing.T) {
	runFSX(t, t.TempDir())
	r := newRuntime(t)
	volume := filepath.Join(r.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	bundle := r.bundle(withVolume(volume, "/volume"), "/e2e.test", "-test.run", "^TestGuestFSX$")
	copySelf(t, filepath.Join(bundle, "rootfs"))
	native := finish(t, selfNative(t.TempDir()), nil)
	guest := r.run("run", "--bundle", bundle, r.id())
	if native.status != 0 || guest.status != 0 || digest(native.out) == "" || digest(native.out) != digest(guest.out) {
		t.Errorf("here: %d %s %s\nguest: %d %s %s", native.status, native.out, native.err, guest.status, guest.out, guest.err)
	}
}

func digest(out string) string {
	for _, line := range strings.Split(out, "\n") {
		if strings.HasPrefix(line, "fsx digest ") {
			return line
		}
	}
	return ""
}
