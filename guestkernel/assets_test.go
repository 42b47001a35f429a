package guestkernel

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// testFiles writes a program, a kernel, an initramfs and another program of the given sizes and
// returns their paths.
func testFiles(t testing.TB, exeSize, kernelSize, initrdSize int) (exe, kernel, initrd, net string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, head string, size int, mode os.FileMode) string {
		b := bytes.Repeat([]byte(name[:1]), size)
		copy(b, head)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("exe", elfMagic, exeSize, 0o750), write("vmlinux", elfMagic, kernelSize, 0o644), write("initrd", "070701", initrdSize, 0o644), write("net", elfMagic, initrdSize+5, 0o755)
}

func read(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAttachOpen(t *testing.T) {
	for _, size := range []struct{ exe, kernel, initrd int }{
		{100, 100, 100},
		{kernelAlign, initrdAlign, 1000},
		{kernelAlign + 1, initrdAlign + 1, 6},
		{3<<20 + 17, 5<<20 + 3, 1<<20 + 1},
	} {
		exe, kernel, initrd, net := testFiles(t, size.exe, size.kernel, size.initrd)
		out := filepath.Join(t.TempDir(), "out")
		if err := Attach(exe, out, kernel, initrd, net); err != nil {
			t.Fatal(err)
		}
		checkAssets(t, out, exe, kernel, initrd, net)

		// Again, over itself: the old assets must go, not pile up.
		before, _ := os.Stat(out)
		if err := Attach(out, out, kernel, initrd, net); err != nil {
			t.Fatal(err)
		}
		checkAssets(t, out, exe, kernel, initrd, net)
		after, _ := os.Stat(out)
		if before.Size() != after.Size() {
			t.Errorf("attached twice: %d bytes, once: %d", after.Size(), before.Size())
		}
	}
}

// checkAssets compares what is attached to out with the files it was made of.
func checkAssets(t *testing.T, out, exe, kernel, initrd, net string) {
	t.Helper()
	a, err := OpenFile(out)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, part := range []struct {
		r     *io.SectionReader
		path  string
		align int64
	}{{a.Kernel, kernel, kernelAlign}, {a.Initrd, initrd, initrdAlign}, {a.Net, net, netAlign}} {
		want, err := os.ReadFile(part.path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, part.r), want) {
			t.Errorf("%s: contents differ", part.path)
		}
		if r, off, n := part.r.Outer(); off%part.align != 0 || n != int64(len(want)) || r != io.ReaderAt(a.File()) {
			t.Errorf("%s: at %#x in the file with %d bytes, want a multiple of %#x with %d", part.path, off, n, part.align, len(want))
		}
	}
	whole, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	program, _ := os.ReadFile(exe)
	if !bytes.HasPrefix(whole, program) {
		t.Error("the program in front was changed")
	}
	info, _ := os.Stat(out)
	if info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, want the program's", info.Mode())
	}
	if err := Verify(out); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

func TestAttachRefuses(t *testing.T) {
	exe, kernel, initrd, net := testFiles(t, 1000, 1000, 1000)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, args := range [][4]string{
		{initrd, kernel, initrd, net}, // not a program
		{exe, initrd, initrd, net},    // not a kernel
		{exe, kernel, kernel, net},    // not an archive
		{exe, kernel, initrd, initrd}, // not a program
		{missing, kernel, initrd, net},
		{exe, missing, initrd, net},
		{exe, kernel, missing, net},
		{exe, kernel, initrd, missing},
	} {
		dir := t.TempDir()
		if err := Attach(args[0], filepath.Join(dir, "out"), args[1], args[2], args[3]); err == nil {
			t.Errorf("Attach(%q): no error", args)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("Attach(%q) left %v", args, left)
		}
	}
}

func TestOpenWithout(t *testing.T) {
	exe, _, _, _ := testFiles(t, 1000, 1000, 1000)
	tiny := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(tiny, []byte(elfMagic), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{exe, tiny} {
		if _, err := OpenFile(path); !errors.Is(err, ErrNone) {
			t.Errorf("OpenFile(%s): %v, want ErrNone", path, err)
		}
	}
	// The test binary itself has none either, and Open looks at it.
	if _, err := Open(); !errors.Is(err, ErrNone) {
		t.Errorf("Open: %v, want ErrNone", err)
	}
}

// TestOpenDamaged cuts and flips: nothing but the undamaged file may open, and
// a file that still ends in a trailer must be called corrupt, not bare.
func TestOpenDamaged(t *testing.T) {
	exe, kernel, initrd, net := testFiles(t, 1000, 1000, 1000)
	out := filepath.Join(t.TempDir(), "out")
	if err := Attach(exe, out, kernel, initrd, net); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte, want error) {
		t.Helper()
		if err := os.WriteFile(out, b, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFile(out); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	for n := 1; n < trailerSize; n += 7 {
		check("truncated", good[:len(good)-n], ErrNone)
	}
	// Bytes lost in the middle leave the trailer whole but out of place.
	check("shortened", append(bytes.Clone(good[:5000]), good[6000:]...), ErrCorrupt)
	check("lengthened", append(bytes.Clone(good[:5000]), good[4000:]...), ErrCorrupt)
	for i := len(good) - trailerSize + len(trailerMagic); i < len(good); i++ {
		b := bytes.Clone(good)
		b[i] ^= 0x10
		check("flipped", b, ErrCorrupt)
	}
	b := bytes.Clone(good)
	b[len(b)-trailerSize-1] ^= 1
	if err := os.WriteFile(out, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Verify(out); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Verify of a damaged program: %v", err)
	}
}

// FuzzTrailer: a trailer that is accepted describes parts that lie inside the
// file, in order, and encodes to the same bytes again.
func FuzzTrailer(f *testing.F) {
	good := trailer{exeSize: 1000, kernelOff: kernelAlign, kernelSize: 5000, initrdOff: kernelAlign + 8192, initrdSize: 77,
		netOff: kernelAlign + 12288, netSize: 33}
	f.Add(good.encode(), int64(kernelAlign+12288+33+trailerSize), false)
	f.Add(good.encode(), int64(0), true)
	f.Add([]byte(trailerMagic), int64(1<<40), true)
	f.Fuzz(func(t *testing.T, b []byte, fileSize int64, seal bool) {
		if seal && len(b) == trailerSize {
			// Get past the checksum, which a fuzzer cannot guess.
			n := copy(b, trailerMagic)
			copy(b[n:], []byte{trailerVersion, 0, 0, 0, trailerSize, 0, 0, 0})
			sealed := append(b[:trailerSize-8:trailerSize-8], make([]byte, 8)...)
			sum := fnv1a(sealed[:trailerSize-8])
			for i := range 8 {
				sealed[trailerSize-8+i] = byte(sum >> (8 * i))
			}
			b = sealed
		}
		tr, err := decodeTrailer(b, fileSize)
		if err != nil {
			if !errors.Is(err, ErrNone) && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("unexpected error: %v", err)
			}
			return
		}
		size := uint64(fileSize)
		ordered := tr.exeSize <= tr.kernelOff && tr.kernelOff+tr.kernelSize <= tr.initrdOff && tr.initrdOff+tr.initrdSize <= tr.netOff &&
			tr.netOff+tr.netSize <= size
		if !ordered || tr.kernelOff%kernelAlign != 0 || tr.initrdOff%initrdAlign != 0 || tr.netOff%netAlign != 0 {
			t.Fatalf("accepted %+v for a file of %d bytes", tr, fileSize)
		}
		if !bytes.Equal(tr.encode(), b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, tr, tr.encode())
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	exe, kernel, initrd, net := testFiles(b, 1000, 1000, 1000)
	out := filepath.Join(b.TempDir(), "out")
	if err := Attach(exe, out, kernel, initrd, net); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		a, err := OpenFile(out)
		if err != nil {
			b.Fatal(err)
		}
		a.Close()
	}
}
