package vmm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// source yields bytes and says that it was asked.
type source struct{ asked chan struct{} }

func (s source) Read(p []byte) (int, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	return len(p), nil
}

// driveAgain is a guest that sets up the first device over and over, with a request in its queue each time.
func driveAgain() []byte {
	code := vmmtest.Store(vmmtest.DescAddr, 0x31_0000)              // a buffer
	code = append(code, vmmtest.Store(vmmtest.DescAddr+8, 64)...)   // of 64 bytes
	code = append(code, vmmtest.Store(vmmtest.DescAddr+12, 2)...)   // for the device to write
	code = append(code, vmmtest.Store(vmmtest.AvailAddr, 1<<16)...) // one request: descriptor 0
	loop := vmmtest.DriveQueue()
	loop = append(loop, vmmtest.Store(vmmtest.FirstSlot+0x50, 0)...)
	loop = append(loop, vmmtest.Store(vmmtest.FirstSlot+0x70, 0)...)
	back := -len(loop) - 5
	return append(append(code, loop...), 0xe9, byte(back), byte(back>>8), 0xff, 0xff)
}

// TestLateDevices puts devices into a running VM and takes them out again, while the guest uses them.
func TestLateDevices(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, LateDevices: 1, MaxMemory: 1 << 30, LateMemory: true,
		Protocol: boot.PVH, Kernel: vmmtest.Kernel(driveAgain())})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	early := rng.New(source{make(chan struct{}, 1)})
	if err := vm.Attach(early); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Run(t.Context()) }()
	if err := vm.Attach(rng.New(source{})); !errors.Is(err, vmm.ErrNoSlot) {
		t.Errorf("a second device, in the slot of virtio-mem: %v", err)
	}
	if err := vm.Detach(early); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s := source{make(chan struct{}, 1)}
		var d virtio.Device = rng.New(s)
		if err := vm.Attach(d); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.asked:
		case err := <-ended:
			t.Fatalf("the VM ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("the guest did not reach a device that came late")
		}
		if err := vm.Detach(d); err != nil {
			t.Fatal(err)
		}
		if vmm.Queues(vm) != 0 {
			t.Fatal("queues of a device that is gone")
		}
		if vm.Detach(d) == nil {
			t.Fatal("a device was taken out twice")
		}
	}
	if err := vm.AttachMemory(); err != nil {
		t.Error(err)
	}
	vm.Close()
	<-ended
	if err := vm.Attach(rng.New(source{})); err == nil {
		t.Error("a VM that has ended got a device")
	}
	if err := vm.Detach(early); err == nil {
		t.Error("a VM that has ended lost a device")
	}
}

func TestTooManyLateDevices(t *testing.T) {
	for _, n := range []int{-1, vmm.MaxDevices + 1} {
		if vm, err := vmm.New(vmm.Config{LateDevices: n, Kernel: vmmtest.Kernel(vmmtest.Spin)}); err == nil {
			vm.Close()
			t.Errorf("%d late devices", n)
		}
	}
}
