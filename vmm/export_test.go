package vmm

import (
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/kvm"
)

// TimerLVT returns the first vCPU's LVT timer register (Intel SDM 3, 11.5.1).
func TimerLVT(t *testing.T, v *VM) uint32 {
	t.Helper()
	s, err := v.cpus[0].kvm.LAPIC()
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(s.Regs[0x320:])
}

// RAM returns the guest's memory.
func RAM(v *VM) *guestmem.Memory { return v.mem }

// GrowRegion is for tests.
var GrowRegion = growRegion

// ErrStopped is the end of a VM by Close.
var ErrStopped = errStopped

// CPUIDFor is for tests.
var CPUIDFor = cpuidFor

// CPUState returns the registers of CPU id.
func CPUState(t *testing.T, v *VM, id int) (kvm.Regs, kvm.Sregs) {
	t.Helper()
	regs, err := v.cpus[id].kvm.Regs()
	if err != nil {
		t.Fatal(err)
	}
	sregs, err := v.cpus[id].kvm.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	return regs, sregs
}

// Queues returns the number of virtqueues that KVM notifies.
func Queues(v *VM) int {
	v.life.Lock()
	defer v.life.Unlock()
	n := 0
	for _, s := range v.slots {
		n += len(s.events)
	}
	return n
}

// VCPUThread returns the id of the first vCPU's thread, 0 before it runs.
func VCPUThread(v *VM) int { return int(v.cpus[0].tid.Load()) }

// Edge raises an interrupt as a device does.
func Edge(v *VM, gsi uint32) { v.edge(gsi) }

// Line sets the level of an interrupt's line.
func Line(t *testing.T, v *VM, gsi uint32, level bool) {
	t.Helper()
	if err := v.vm.IRQLine(gsi, level); err != nil {
		t.Fatal(err)
	}
}

// Route has the IOAPIC turn a GSI's edges into a vector for the first vCPU, whose LAPIC it enables (Intel SDM 3, 11.4.7; 82093AA 3.2.4).
func Route(t *testing.T, v *VM, gsi uint32, vector uint8) {
	t.Helper()
	chip, err := v.vm.IRQChip(kvm.IRQChipIOAPIC)
	if err != nil {
		t.Fatal(err)
	}
	const table = 24 // of struct kvm_ioapic_state's redirtbl
	binary.LittleEndian.PutUint64(chip.Chip[table+8*gsi:], uint64(vector))
	if err := v.vm.SetIRQChip(&chip); err != nil {
		t.Fatal(err)
	}
	changeLAPIC(t, v, func(regs []byte) { regs[0xf1] |= 1 })
}

// Accept reports whether the first vCPU has an interrupt pending, which it has no more then.
func Accept(t *testing.T, v *VM, vector uint8) (pending bool) {
	t.Helper()
	changeLAPIC(t, v, func(regs []byte) {
		irr := &regs[0x200+0x10*int(vector/32)+int(vector%32)/8]
		bit := byte(1) << (vector % 8)
		pending = *irr&bit != 0
		*irr &^= bit
	})
	return pending
}

func changeLAPIC(t *testing.T, v *VM, change func(regs []byte)) {
	t.Helper()
	s, err := v.cpus[0].kvm.LAPIC()
	if err != nil {
		t.Fatal(err)
	}
	change(s.Regs[:])
	if err := v.cpus[0].kvm.SetLAPIC(&s); err != nil {
		t.Fatal(err)
	}
}
