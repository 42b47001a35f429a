package boot_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/testhost/need"
)

// realKernels are images that other tests build or download. They are looked for where those keep them.
func realKernels(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	if dir := os.Getenv("GOVMM_BARE"); dir != "" {
		found["bare"] = filepath.Join(dir, "vmlinux")
	}
	if cache, err := os.UserCacheDir(); err == nil {
		matches, err := filepath.Glob(filepath.Join(cache, "govmm", "testhost", "kernel", "boot", "vmlinuz-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(matches) > 0 {
			found["debian"] = matches[0]
		}
	}
	return found
}

// Real kernels load by every protocol that they have, into memory that is just large enough, and not into less.
func TestRealKernels(t *testing.T) {
	kernels := realKernels(t)
	for _, c := range []struct {
		name     string
		protocol boot.Protocol
		ok       bool
	}{
		{"bare", boot.Auto, true}, {"bare", boot.Linux64, true}, {"bare", boot.PVH, true},
		{"debian", boot.Auto, true}, {"debian", boot.Linux64, true}, {"debian", boot.PVH, false},
	} {
		t.Run(c.name+"-"+c.protocol.String(), func(t *testing.T) {
			path := kernels[c.name]
			if path == "" {
				need.Lacking(t, "kernel-"+c.name, "the %s kernel: GOVMM_BARE names the bare guest's directory, a run of the test host fetches Debian's", c.name)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			size, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				t.Fatal(err)
			}
			cfg := boot.Config{Kernel: f, KernelSize: size, CPUs: 1, Cmdline: "console=ttyS0", Protocol: c.protocol}
			_, err = boot.Load(guestmem.FromBytes(0, make([]byte, 16<<20)), cfg)
			if err == nil {
				t.Fatal("it was loaded into 16 MiB")
			}
			e, err := boot.Load(guestmem.FromBytes(0, make([]byte, 128<<20)), cfg)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if c.ok && (e.RIP < 1<<20 || e.RIP > 128<<20) {
				t.Errorf("entry at %#x", e.RIP)
			}
		})
	}
}

// A kernel that ends anywhere is refused, unless what is missing is not loaded.
func TestTruncatedRealKernel(t *testing.T) {
	path := realKernels(t)["debian"]
	if path == "" {
		need.Lacking(t, need.DebianKernel, "Debian's kernel: a run of the test host fetches it")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mem := guestmem.FromBytes(0, make([]byte, 128<<20))
	for _, n := range []int{1, 0x1f0, 0x202, 0x28f, 0x400, 4096, 1 << 20, len(b) / 2} {
		_, err := boot.Load(mem, boot.Config{Kernel: bytes.NewReader(b[:n]), KernelSize: int64(n), CPUs: 1})
		if err == nil {
			t.Errorf("the first %d bytes were loaded", n)
		}
	}
}
