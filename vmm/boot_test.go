package vmm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/vmm"
)

// bareGuest is the directory with the baseline's kernel and initramfs, whose init prints HELLO and reboots.
func bareGuest(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("GOVMM_BARE")
	need.GuestKernels(t)
	if dir == "" {
		t.Fatal("GOVMM_BARE is not set to the directory of the bare guest's kernel and initrd.cpio: run `make test`")
	}
	return dir
}

// console collects what a guest writes.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func image(t *testing.T, path string) *vmm.Image {
	t.Helper()
	i, err := vmm.OpenImage(path)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func bareConfig(t *testing.T, out *console) vmm.Config {
	dir := bareGuest(t)
	return vmm.Config{
		Memory: 128 << 20, Serial: out,
		Kernel: image(t, filepath.Join(dir, "vmlinux")), Initrd: image(t, filepath.Join(dir, "initrd.cpio")),
		Cmdline: "console=ttyS0 panic=-1 reboot=k loglevel=7", TraceExits: true,
	}
}

// runToReset runs cfg's guest until it resets.
func runToReset(t *testing.T, cfg vmm.Config, out *console) *vmm.VM {
	t.Helper()
	vm, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Close)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := vm.Run(ctx); !errors.Is(err, vmm.ErrReset) {
		var exits strings.Builder
		_ = vm.WriteExits(&exits)
		t.Fatalf("the guest ended with %v, console:\n%s\n%s", err, out, exits.String())
	}
	return vm
}

func TestBareGuest(t *testing.T) {
	for _, cpus := range []int{1, 2, 4} {
		out := &console{}
		cfg := bareConfig(t, out)
		cfg.CPUs = cpus
		runToReset(t, cfg, out)
		if !strings.Contains(out.String(), "HELLO FROM GUEST INIT") {
			t.Errorf("%d CPUs: no HELLO:\n%s", cpus, out)
		}
		if cpus > 1 && !strings.Contains(out.String(), "Brought up 1 node, "+string(rune('0'+cpus))+" CPUs") {
			t.Errorf("%d CPUs are not up:\n%s", cpus, out)
		}
	}
}

// TestBareGuestMemory boots with RAM on both sides of the 32-bit hole, and with odd numbers of pages.
func TestBareGuestMemory(t *testing.T) {
	for _, pages := range []uint64{64<<8 + 1, 1 << 18, 3 << 18, 3<<18 + 1, 5<<18 + 33} {
		out := &console{}
		cfg := bareConfig(t, out)
		cfg.Memory = pages << 12
		runToReset(t, cfg, out)
		if !strings.Contains(out.String(), "HELLO FROM GUEST INIT") {
			t.Errorf("%d pages: no HELLO:\n%s", pages, out)
		}
		// "Memory: 110000K/131036K available": the second figure is the RAM that the kernel was told of.
		var free, told uint64
		_, after, _ := strings.Cut(out.String(), "Memory: ")
		if _, err := fmt.Sscanf(after, "%dK/%dK", &free, &told); err != nil || told > pages*4 || told+1024 < pages*4 {
			t.Errorf("%d KiB of memory: the kernel says %.40q, %v", pages*4, after, err)
		}
	}
}
