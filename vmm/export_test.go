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
