package vmm_test

import (
	"testing"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/entrycheck"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// TestEntryState holds what KVM has for the first vCPU before its first run, which is more than what boot asked for,
// against Intel's rules. The others are in KVM's own reset state, of which the vendors' modules have one each.
func TestEntryState(t *testing.T) {
	vmmtest.NeedKVM(t)
	for _, protocol := range []boot.Protocol{boot.Linux64, boot.PVH} {
		cfg := tinyConfig(vmmtest.Halt)
		cfg.Protocol = protocol
		vm, err := vmm.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Close()
		for id := range cfg.CPUs {
			_, sregs := vmm.CPUState(t, vm, id)
			if bsp := sregs.APICBase&kvm.APICBaseBSP != 0; bsp != (id == 0) || sregs.APICBase&kvm.APICBaseEnable == 0 {
				t.Errorf("%v, CPU %d: APIC base %#x", protocol, id, sregs.APICBase)
			}
		}
		// Without unrestricted guest, Intel enters no unpaged mode: KVM emulates that itself.
		for _, unrestricted := range []bool{true, protocol == boot.PVH} {
			host := entrycheck.Typical()
			host.UnrestrictedGuest = unrestricted
			regs, sregs := vmm.CPUState(t, vm, 0)
			for _, violation := range entrycheck.Check(&regs, &sregs, host) {
				t.Errorf("%v, unrestricted guest %t: %v", protocol, unrestricted, violation)
			}
		}
	}
}
