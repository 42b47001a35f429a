package vmm

import (
	"fmt"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/kvm"
)

func (v *VM) setUpCPUs() error {
	if err := v.checkCPUs(); err != nil {
		return err
	}
	supported, err := v.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	for id := range v.cfg.CPUs {
		c, err := newVCPU(v, id)
		if err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
		v.cpus = append(v.cpus, c)
		if err := c.kvm.SetCPUID2(cpuidFor(supported, id, v.cfg.CPUs)); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
		// What a BIOS would have set.
		if err := c.kvm.SetMSRs([]kvm.MSREntry{
			{Index: kvm.MSRMiscEnable, Data: kvm.MiscEnableFastString},
			{Index: kvm.MSRMTRRDefType, Data: kvm.MTRRDefTypeEnable | kvm.MTRRDefTypeWriteBack},
		}); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
	}
	return nil
}

func (v *VM) checkCPUs() error {
	limit, err := v.vm.CheckExtension(kvm.CapMaxVCPUs)
	if err == nil && limit > 0 && v.cfg.CPUs > limit {
		return fmt.Errorf("%d CPUs: this host's KVM has at most %d", v.cfg.CPUs, limit)
	}
	deadline, err := v.vm.CheckExtension(kvm.CapTSCDeadlineTimer)
	if err == nil && deadline == 0 {
		return fmt.Errorf("this host's KVM has no TSC deadline timer: Linux 3.14 or later is needed")
	}
	return nil
}

// enter gives the vCPU the state that the boot loader asks for.
func (c *vcpu) enter(e *boot.Entry) error {
	sregs, err := c.kvm.Sregs()
	if err != nil {
		return err
	}
	regs := entryState(e, &sregs)
	if err := c.kvm.SetSregs(&sregs); err != nil {
		return err
	}
	return c.kvm.SetRegs(&regs)
}
