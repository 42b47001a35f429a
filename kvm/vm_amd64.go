package kvm

import (
	"bytes"
	"encoding/binary"
)

// SetTSSAddr is KVM_SET_TSS_ADDR, KVM API 4.36: the guest-physical address of three pages below 4 GiB, outside every
// slot, that Intel hosts without unrestricted guest mode need. Before the first vCPU runs.
func (vm *VM) SetTSSAddr(gpa uint32) error {
	_, err := vm.fd.ioctl("KVM_SET_TSS_ADDR", kvmSetTSSAddr, uintptr(gpa))
	return err
}

// SetIdentityMapAddr is KVM_SET_IDENTITY_MAP_ADDR, KVM API 4.40: one more such page. Before the first vCPU is made.
func (vm *VM) SetIdentityMapAddr(gpa uint64) error {
	return set(vm.fd, "KVM_SET_IDENTITY_MAP_ADDR", kvmSetIdentityMapAddr, &gpa)
}

// CreateIRQChip is KVM_CREATE_IRQCHIP, KVM API 4.24: two 8259 PICs, an IOAPIC, and a local APIC in each vCPU made later.
func (vm *VM) CreateIRQChip() error {
	_, err := vm.fd.ioctl("KVM_CREATE_IRQCHIP", kvmCreateIRQChip, 0)
	return err
}

// IRQChipID names an in-kernel interrupt controller.
type IRQChipID uint32

// The in-kernel interrupt controllers, KVM API 4.26.
const (
	IRQChipPICMaster IRQChipID = 0
	IRQChipPICSlave  IRQChipID = 1
	IRQChipIOAPIC    IRQChipID = 2
)

// IRQChip is KVM_GET_IRQCHIP, KVM API 4.26.
func (vm *VM) IRQChip(id IRQChipID) (IRQChip, error) {
	arg := IRQChip{ChipID: id}
	err := set(vm.fd, "KVM_GET_IRQCHIP", kvmGetIRQChip, &arg)
	return arg, err
}

// SetIRQChip is KVM_SET_IRQCHIP, KVM API 4.27.
func (vm *VM) SetIRQChip(c *IRQChip) error {
	return set(vm.fd, "KVM_SET_IRQCHIP", kvmSetIRQChip, c)
}

// IOAPIC reads the state as an IOAPIC's; meaningful when ChipID is IRQChipIOAPIC.
func (c *IRQChip) IOAPIC() (s IOAPICState) {
	// The sizes are constants, so Read cannot fail.
	_ = binary.Read(bytes.NewReader(c.Chip[:]), binary.LittleEndian, &s)
	return s
}

// PITFlags are the flags of CreatePIT2.
type PITFlags uint32

// PITSpeakerDummy gives the guest port 0x61, whose speaker bits some kernels calibrate clocks with.
const PITSpeakerDummy PITFlags = 1

// CreatePIT2 is KVM_CREATE_PIT2, KVM API 4.71: an i8254 in the kernel. After CreateIRQChip.
func (vm *VM) CreatePIT2(flags PITFlags) error {
	return set(vm.fd, "KVM_CREATE_PIT2", kvmCreatePIT2, &pitConfig{Flags: uint32(flags)})
}

// PIT2 is KVM_GET_PIT2, KVM API 4.72.
func (vm *VM) PIT2() (PITState, error) { return get[PITState](vm.fd, "KVM_GET_PIT2", kvmGetPIT2) }

// SetPIT2 is KVM_SET_PIT2, KVM API 4.73.
func (vm *VM) SetPIT2(s *PITState) error { return set(vm.fd, "KVM_SET_PIT2", kvmSetPIT2, s) }

// Clock is KVM_GET_CLOCK, KVM API 4.29: the kvm-clock as the guest sees it.
func (vm *VM) Clock() (ClockData, error) { return get[ClockData](vm.fd, "KVM_GET_CLOCK", kvmGetClock) }

// SetClock is KVM_SET_CLOCK, KVM API 4.30. With ClockRealtime in Flags (the other flags must be clear) KVM adds the time
// that has passed since c.Realtime.
func (vm *VM) SetClock(c *ClockData) error { return set(vm.fd, "KVM_SET_CLOCK", kvmSetClock, c) }

// SetTSCKHz is KVM_SET_TSC_KHZ on a VM, KVM API 4.55: the frequency that later vCPUs start with. Needs CapVMTSCControl.
func (vm *VM) SetTSCKHz(khz int) error {
	_, err := vm.fd.ioctl("KVM_SET_TSC_KHZ", kvmSetTSCKHz, uintptr(khz))
	return err
}

// TSCKHz is KVM_GET_TSC_KHZ on a VM, KVM API 4.56. Needs CapVMTSCControl.
func (vm *VM) TSCKHz() (int, error) { return vm.fd.ioctl("KVM_GET_TSC_KHZ", kvmGetTSCKHz, 0) }
