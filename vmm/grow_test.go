package vmm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio/balloon"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// TestGrow has the guest change bytes of memory that it got after it was made, and of memory that it has not got.
func TestGrow(t *testing.T) {
	vmmtest.NeedKVM(t)
	const mib = 1 << 20
	base := boot.HoleEnd
	// The second step begins at 128 MiB: steps are as long as Linux's memory blocks.
	addrs := []guestmem.Addr{base, base + 128*mib - 1, base + 128*mib, base + 256*mib - 1}
	outside := base + 256*mib
	vm, err := vmm.New(vmm.Config{
		Memory: 16 * mib, MaxMemory: 3072 * mib, Balloon: true, Kernel: vmmtest.Kernel(topCode(append(addrs, outside)...)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if n := len(vmm.RAM(vm).Regions()); vm.Memory() != 16*mib || n != 1 {
		t.Errorf("%d bytes in %d regions, want the RAM at the start alone", vm.Memory(), n)
	}
	if err := vmm.RAM(vm).WriteAt([]byte{1}, base); !errors.Is(err, guestmem.ErrOutOfRange) {
		t.Errorf("a device reaches memory that the guest has not got: %v", err)
	}
	for _, size := range []uint64{100 * mib, 16*mib + 200*mib, 16 * mib, 16*mib + 129*mib} {
		if err := vm.SetMemory(size); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []uint64{0, 16*mib - 4096, 3072*mib + 4096} {
		if vm.SetMemory(bad) == nil {
			t.Errorf("memory of %d bytes was accepted", bad)
		}
	}
	mapAll(t, vmm.RAM(vm))
	if err := vm.Run(t.Context()); !errors.Is(err, vmm.ErrReset) {
		t.Fatalf("Run: %v", err)
	}
	for _, a := range addrs {
		b := []byte{0}
		if err := vmm.RAM(vm).ReadAt(b, a); err != nil || b[0] != 1 {
			t.Errorf("the byte at %#x is %d, %v, want 1", uint64(a), b[0], err)
		}
	}
	if err := vmm.RAM(vm).ReadAt([]byte{0}, outside); !errors.Is(err, guestmem.ErrOutOfRange) {
		t.Errorf("memory that nobody asked for: %v", err)
	}
	if vm.PluggedMemory() != 16*mib {
		t.Errorf("%d bytes are plugged without a driver", vm.PluggedMemory())
	}
	if _, err := vm.MemoryStats(t.Context()); !errors.Is(err, balloon.ErrNoStats) {
		t.Errorf("statistics without a driver: %v", err)
	}
	vm.Close()
	if err := vm.SetMemory(100 * mib); !errors.Is(err, vmm.ErrReset) {
		t.Errorf("SetMemory after Close: %v", err)
	}
}

func TestCannotGrow(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, Kernel: vmmtest.Kernel(vmmtest.Spin)})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if err := vm.SetMemory(32 << 20); !errors.Is(err, vmm.ErrCannotGrow) {
		t.Errorf("SetMemory: %v", err)
	}
	if err := vm.SetMemory(16 << 20); err != nil || vm.MaxMemory() != 16<<20 {
		t.Errorf("SetMemory of what there is: %v; up to %d bytes", err, vm.MaxMemory())
	}
	_, err = vmm.New(vmm.Config{MaxMemory: 1<<30 + 1, Kernel: vmmtest.Kernel(vmmtest.Spin)})
	if err == nil || !strings.Contains(err.Error(), "whole pages") {
		t.Errorf("MaxMemory that is not made of pages: %v", err)
	}
}

// TestGrowRegion: memory that comes later overlaps neither RAM nor the hole, is made of whole steps, and needs few of them.
func TestGrowRegion(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct{ ram, most uint64 }{
		{8 << 20, 9 << 20}, {512 << 20, 6 * gib}, {3 * gib, 4 * gib}, {3*gib + 4096, 64 * gib}, {70 * gib, 1024 * gib}, {gib, 1 << 45},
	} {
		r, step := vmm.GrowRegion(tt.ram, tt.most)
		layout := boot.Layout(tt.ram)
		if r.Base < boot.HoleEnd || r.Base < layout[len(layout)-1].End() || r.Base%(2*gib) != 0 || r.Size < tt.most-tt.ram ||
			r.Size%(128<<20) != 0 || step%(128<<20) != 0 || r.Size > 64*step || tt.most >= 64*gib && step%(2*gib) != 0 {
			t.Errorf("%d to %d MiB: %#x+%#x in steps of %#x", tt.ram>>20, tt.most>>20, uint64(r.Base), r.Size, step)
		}
	}
}

// TestAttachMemory puts the devices for memory into a VM that runs, once, and not into one that has ended.
func TestAttachMemory(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, MaxMemory: 1 << 30, Balloon: true, LateMemory: true, Kernel: vmmtest.Kernel(vmmtest.Spin)})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	ended := make(chan error, 1)
	go func() { ended <- vm.Run(t.Context()) }()
	for range 2 {
		if err := vm.AttachMemory(); err != nil {
			t.Fatal(err)
		}
	}
	if n := vmm.Queues(vm); n != 1+5 {
		t.Errorf("%d queues are served, want virtio-mem's and the balloon's", n)
	}
	if err := vm.SetMemory(512 << 20); err != nil {
		t.Error(err)
	}
	vm.Close()
	<-ended
	if err := vm.AttachMemory(); err == nil {
		t.Error("a VM that has ended got devices")
	}
}
