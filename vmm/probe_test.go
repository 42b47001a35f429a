package vmm_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/vmm"
)

// Guest RAM that is aligned to 2 MiB is backed by huge pages after a boot: design.md, what the start-up rests on.
func TestGuestMemoryHasHugePages(t *testing.T) {
	out := &console{}
	cfg := bareConfig(t, out)
	b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || strings.Contains(string(b), "[never]") {
		need.Lacking(t, need.HugePages, "transparent huge pages: %s %v", b, err)
	}
	runToReset(t, cfg, out)
	if kib := anonHugePages(t); kib < 2048 {
		t.Errorf("AnonHugePages of this process: %d KiB, want at least one page of 2 MiB", kib)
	}
}

func anonHugePages(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "AnonHugePages:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no AnonHugePages in smaps_rollup")
	return 0
}

// loopingGuest starts a guest that panics for want of a root and then loops for ever. What Run returns comes out of the
// channel.
func loopingGuest(t *testing.T, ctx context.Context) (*vmm.VM, <-chan error) {
	t.Helper()
	out := &console{}
	cfg := bareConfig(t, out)
	cfg.CPUs, cfg.Initrd = 2, nil
	cfg.Cmdline = "console=ttyS0 panic=0 loglevel=7"
	vm, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Close)
	done := make(chan error, 1)
	go func() { done <- vm.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "Kernel panic"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no panic:\n%s", out)
		}
	}
	return vm, done
}

// The guest's timer is the TSC deadline's, and nothing calibrates against a PIT, which is not there.
func TestTimerIsTSCDeadline(t *testing.T) {
	vm, _ := loopingGuest(t, t.Context())
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	lvtt := vmm.TimerLVT(t, vm)
	if mode := lvtt >> 17 & 3; mode != 2 {
		t.Errorf("LVT timer register %#x: mode %d, want 2, TSC deadline", lvtt, mode)
	}
	var exits strings.Builder
	if err := vm.WriteExits(&exits); err != nil {
		t.Fatal(err)
	}
	// A calibration reads channel 2's gate at port 0x61, or counts at 0x40 and 0x42.
	for _, port := range []string{"in port 0x61\n", "in port 0x40\n", "in port 0x42\n"} {
		if strings.Contains(exits.String(), port) {
			t.Errorf("the guest used the PIT:\n%s", exits.String())
		}
	}
}

// A guest that loops is paused, resumed, and stopped while it is paused.
func TestPauseResumeStop(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	vm, done := loopingGuest(t, ctx)
	for range 20 {
		if err := vm.Pause(); err != nil {
			t.Fatal(err)
		}
		vm.Resume()
	}
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the VM does not stop")
	}
}

// Shutting down under load leaves nothing: many VMs are ended at arbitrary moments of their boot.
func TestCloseAtAnyMoment(t *testing.T) {
	dir := bareGuest(t)
	kernel, initrd := image(t, dir+"/vmlinux"), image(t, dir+"/initrd.cpio")
	before := countFDs(t)
	for i := range 60 {
		vm, err := vmm.New(vmm.Config{CPUs: 2, Memory: 64 << 20, Kernel: kernel, Initrd: initrd, Cmdline: "console=ttyS0", Serial: &console{}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*3)*time.Millisecond)
		_ = vm.Run(ctx)
		cancel()
		vm.Close()
		vm.Close()
	}
	runtime.GC()
	if after := countFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
