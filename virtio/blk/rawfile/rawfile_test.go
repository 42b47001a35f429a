package rawfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/blk"
)

var _ interface {
	blk.Storage
	blk.Flusher
	blk.Discarder
	blk.ZeroWriter
	blk.VectorStorage
} = (*File)(nil)

const imageSize = 256 << 10

// newImage makes an image whose bytes are all 0xee, and opens it for writing.
func newImage(t *testing.T) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xee}, imageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, path
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(p) != imageSize {
		t.Fatalf("the image has %d bytes now", len(p))
	}
	return p
}

func TestReadWrite(t *testing.T) {
	f, path := newImage(t)
	if f.Size() != imageSize || f.BlockSize() != 512 {
		t.Errorf("size %d, block size %d", f.Size(), f.BlockSize())
	}
	// More buffers than one system call takes, of odd sizes.
	var out, in [][]byte
	var want []byte
	for i := range maxVector + 100 {
		p := bytes.Repeat([]byte{byte(i)}, 1+i%7)
		out, in, want = append(out, p), append(in, make([]byte, len(p))), append(want, p...)
	}
	if err := f.WriteVector(out, 512); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Error(err)
	}
	if got := content(t, path)[512:]; !bytes.Equal(got[:len(want)], want) || got[len(want)] != 0xee {
		t.Error("the file does not have what was written")
	}
	if err := f.ReadVector(in, 512); err != nil || !bytes.Equal(bytes.Join(in, nil), want) {
		t.Errorf("read back differently: %v", err)
	}
	p := make([]byte, 16)
	if _, err := f.WriteAt([]byte("0123456789abcdef"), imageSize-16); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(p, imageSize-16); err != nil || string(p) != "0123456789abcdef" {
		t.Errorf("%q, %v", p, err)
	}
}

// TestShrunk: an image that somebody truncates gives errors, not the end of the process or a loop.
func TestShrunk(t *testing.T) {
	f, path := newImage(t)
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	buffers := [][]byte{make([]byte, 512), make([]byte, 512)}
	if err := f.ReadVector(buffers, 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadVector: %v", err)
	}
	if n, err := f.ReadAt(buffers[0], 900); n != 100 || err != io.EOF {
		t.Errorf("ReadAt: %d, %v", n, err)
	}
}

func TestDiscardAndWriteZeroes(t *testing.T) {
	f, path := newImage(t)
	if err := f.Discard(0, 8192); err != nil {
		t.Error(err)
	}
	for i, unmap := range []bool{false, true} {
		off := int64(64<<10 + i*(64<<10))
		if err := f.WriteZeroes(off+512, 4096, unmap); err != nil {
			t.Error(err)
		}
		got := content(t, path)[off:]
		if !bytes.Equal(got[512:512+4096], make([]byte, 4096)) || got[511] != 0xee || got[512+4096] != 0xee {
			t.Errorf("unmap %v: not just the range is zero", unmap)
		}
	}
	if got := content(t, path)[8192:]; got[0] != 0xee {
		t.Error("a discard went too far")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:           "is a directory",
		dir + "/fifo": "neither a regular file nor a block device",
		dir + "/none": "no such file",
		"/dev/null":   "neither a regular file nor a block device",
	} {
		if f, err := Open(path, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", path, f, err, want)
		}
	}
}

// TestLock: one writer, or readers.
func TestLock(t *testing.T) {
	f, path := newImage(t)
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(path, readOnly); err == nil || !strings.Contains(err.Error(), "in use by another VM") {
			t.Errorf("opened beside a writer, read-only %v: %v", readOnly, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := Open(path, true)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.WriteAt([]byte{1}, 0); err == nil {
			t.Error("a read-only image was written to")
		}
	}
	if _, err := Open(path, false); err == nil {
		t.Error("a writer beside readers")
	}
}
