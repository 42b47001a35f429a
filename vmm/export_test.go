package vmm

import (
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/guestmem"
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

// ErrStopped is the end of a VM by Close.
var ErrStopped = errStopped

// CPUIDFor is for tests.
var CPUIDFor = cpuidFor
