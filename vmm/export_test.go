package vmm

import (
	"encoding/binary"
	"testing"
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
