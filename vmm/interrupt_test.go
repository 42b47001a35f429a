package vmm_test

import (
	"testing"

	"github.com/govmm/govmm/boot"
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
