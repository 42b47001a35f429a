package kvm

import (
	"os"

	"golang.org/x/sys/unix"
)

// VM is a virtual machine: memory slots, an interrupt controller, and vCPUs.
type VM struct {
	fd      *fd
	runSize int
}

// Close closes the descriptor; the VM itself ends when its vCPUs are closed too. Closing again does nothing.
func (vm *VM) Close() error {
	vm.fd.close()
	return nil
}

// CheckExtension is KVM_CHECK_EXTENSION on a VM, KVM API 4.4: 0 when this VM lacks the capability, else 1 or the
// capability's own figure.
func (vm *VM) CheckExtension(c Cap) (int, error) {
	return vm.fd.ioctl("KVM_CHECK_EXTENSION", kvmCheckExtension, uintptr(c))
}

// EnableCap is KVM_ENABLE_CAP on a VM, KVM API 4.37.
func (vm *VM) EnableCap(c Cap, args ...uint64) error {
	return enableCap(vm.fd, c, args)
}

func enableCap(f *fd, c Cap, args []uint64) error {
	arg := enableCapArg{Cap: uint32(c)}
	if copy(arg.Args[:], args) != len(args) {
		return os.NewSyscallError("KVM_ENABLE_CAP", unix.EINVAL)
	}
	return set(f, "KVM_ENABLE_CAP", kvmEnableCap, &arg)
}

// MemoryFlags are the flags of a memory slot.
type MemoryFlags uint32

// Memory slot flags, KVM API 4.35.
const (
	MemLogDirtyPages MemoryFlags = 1 << 0
	MemReadonly      MemoryFlags = 1 << 1
)

// SetUserMemoryRegion is KVM_SET_USER_MEMORY_REGION, KVM API 4.35: it makes, moves or re-flags a memory slot at
// guest-physical address gpa. mem must be page aligned, must not be on the Go heap, and must stay mapped until the slot
// or the VM is gone. Empty mem deletes the slot.
func (vm *VM) SetUserMemoryRegion(slot uint32, flags MemoryFlags, gpa uint64, mem []byte) error {
	arg := userMemoryRegion{Slot: slot, Flags: uint32(flags), GuestPhysAddr: gpa, MemorySize: uint64(len(mem))}
	if len(mem) > 0 {
		arg.UserspaceAddr = addressOf(mem)
	}
	return set(vm.fd, "KVM_SET_USER_MEMORY_REGION", kvmSetUserMemoryRegion, &arg)
}

// CreateVCPU is KVM_CREATE_VCPU, KVM API 4.7, with the mapping of its kvm_run page. id is the APIC id on x86.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	num, err := vm.fd.ioctl("KVM_CREATE_VCPU", kvmCreateVCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	page, err := unix.Mmap(num, 0, vm.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(num)
		return nil, os.NewSyscallError("mmap kvm_run", err)
	}
	return newVCPU(&fd{num: num, mapping: page}), nil
}

// SetBootCPUID is KVM_SET_BOOT_CPU_ID, KVM API 4.41: which vCPU is the bootstrap processor. Before the first vCPU.
func (vm *VM) SetBootCPUID(id int) error {
	_, err := vm.fd.ioctl("KVM_SET_BOOT_CPU_ID", kvmSetBootCPUID, uintptr(id))
	return err
}
