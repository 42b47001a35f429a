package vmm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// TestEdge: each call is an interrupt, also while another thread that raises the same one has lost its CPU half-way.
func TestEdge(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, Protocol: boot.PVH, Kernel: vmmtest.Kernel([]byte{0xeb, 0xfe})})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	const gsi, vector = boot.FirstGSI, 0x41
	vmm.Route(t, vm, gsi, vector)
	if vmm.Accept(t, vm, vector) {
		t.Fatal("an interrupt before the first")
	}
	for i := range 3 {
		vmm.Edge(vm, gsi)
		if !vmm.Accept(t, vm, vector) {
			t.Errorf("call %d: no interrupt", i)
		}
	}
	for _, level := range []bool{false, true} {
		vmm.Line(t, vm, gsi, level) // the other thread's
		vmm.Accept(t, vm, vector)
		vmm.Edge(vm, gsi)
		if !vmm.Accept(t, vm, vector) {
			t.Errorf("no interrupt where the line was %v", level)
		}
	}
}

// leftAddr is where acknowledge adds up what InterruptStatus is behind acknowledgements.
const leftAddr = 0x32_0000

// acknowledge is a guest that makes n requests of the first device, one after the other, and acknowledges the interrupt of each: behind every
// second one it has no exit before the device is to raise the next.
func acknowledge(n uint32) []byte {
	at := func(code []byte, addr uint32) []byte { return binary.LittleEndian.AppendUint32(code, addr) }
	round := append(at([]byte{0x66, 0x83, 0x05}, vmmtest.AvailAddr+2), 1)               // add word [avail.idx], 1
	round = append(round, vmmtest.Store(vmmtest.FirstSlot+virtio.RegQueueNotify, 0)...) //
	round = at(append(round, 0x66, 0xa1), vmmtest.AvailAddr+2)                          // used: mov ax, [avail.idx]
	round = at(append(round, 0x66, 0x3b, 0x05), vmmtest.UsedAddr+2)                     // cmp ax, [used.idx]
	round = append(round, 0x75, 0xf1)                                                   // jne used
	round = at(append(round, 0xa1), vmmtest.FirstSlot+virtio.RegInterruptStatus)        // wait: mov eax, [InterruptStatus]
	round = append(round, 0x85, 0xc0, 0x74, 0xf7)                                       // test eax, eax; jz wait
	round = at(append(round, 0xa3), vmmtest.FirstSlot+virtio.RegInterruptACK)           // mov [InterruptACK], eax
	round = append(round, 0xf6, 0xc1, 0x01, 0x74, 0x0b)                                 // test cl, 1; jz next
	round = at(append(round, 0xa1), vmmtest.FirstSlot+virtio.RegInterruptStatus)        // mov eax, [InterruptStatus]
	round = at(append(round, 0x01, 0x05), leftAddr)                                     // add [left], eax
	round = append(round, 0x49, 0x0f, 0x85)                                             // next: dec ecx; jnz round
	round = at(round, uint32(-len(round)-4))                                            //
	return slices.Concat(vmmtest.Store(vmmtest.DescAddr, 0x31_0000), vmmtest.Store(vmmtest.DescAddr+8, 64), vmmtest.Store(vmmtest.DescAddr+12, 2),
		vmmtest.DriveQueue(), at([]byte{0xb9}, n), round, vmmtest.Reset)
}

// TestPostedAcknowledgements: after some interrupts the driver's acknowledgements take no exits any more, and are heeded all the same: each
// request has its interrupt. When the device is gone its slot counts anew.
func TestPostedAcknowledgements(t *testing.T) {
	vmmtest.NeedKVM(t)
	const requests = 4 * vmm.ManyInterrupts
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, LateDevices: 1, TraceExits: true, Protocol: boot.PVH, Kernel: vmmtest.Kernel(acknowledge(requests))})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	device := rng.New(source{make(chan struct{}, 1)})
	if err := vm.Attach(device); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // what is not heeded would be waited for
	defer cancel()
	if err := vm.Run(ctx); !errors.Is(err, vmm.ErrReset) {
		t.Fatal(err)
	}
	left := make([]byte, 4)
	if err := vmm.RAM(vm).ReadAt(left, leftAddr); err != nil || !bytes.Equal(left, make([]byte, 4)) {
		t.Errorf("behind acknowledgements InterruptStatus was %x in all, %v", left, err)
	}
	if n := vmm.Interrupts(vm, 0); n != requests {
		t.Errorf("%d interrupts for %d requests", n, requests)
	}
	var trace bytes.Buffer
	if err := vm.WriteExits(&trace); err != nil {
		t.Fatal(err)
	}
	exits := 0
	if m := regexp.MustCompile(`(\d+)\s+write 0xd0000064`).FindStringSubmatch(trace.String()); m != nil {
		fmt.Sscan(m[1], &exits)
	}
	if exits < vmm.ManyInterrupts-1 || exits > vmm.ManyInterrupts+1 {
		t.Errorf("%d exits by acknowledgements, want %d:\n%s", exits, vmm.ManyInterrupts, &trace)
	}
	if err := vm.Detach(device); err != nil {
		t.Fatal(err)
	}
	if n := vmm.Interrupts(vm, 0); n != 0 {
		t.Errorf("%d interrupts of an empty slot", n)
	}
}
