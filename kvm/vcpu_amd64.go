package kvm

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Regs is KVM_GET_REGS, KVM API 4.11.
func (v *VCPU) Regs() (Regs, error) { return get[Regs](v.fd, "KVM_GET_REGS", kvmGetRegs) }

// SetRegs is KVM_SET_REGS, KVM API 4.12.
func (v *VCPU) SetRegs(r *Regs) error { return set(v.fd, "KVM_SET_REGS", kvmSetRegs, r) }

// Sregs is KVM_GET_SREGS, KVM API 4.13.
func (v *VCPU) Sregs() (Sregs, error) { return get[Sregs](v.fd, "KVM_GET_SREGS", kvmGetSregs) }

// SetSregs is KVM_SET_SREGS, KVM API 4.14.
func (v *VCPU) SetSregs(s *Sregs) error { return set(v.fd, "KVM_SET_SREGS", kvmSetSregs, s) }

// Sregs2 is KVM_GET_SREGS2, KVM API 4.131. Needs CapSregs2.
func (v *VCPU) Sregs2() (Sregs2, error) { return get[Sregs2](v.fd, "KVM_GET_SREGS2", kvmGetSregs2) }

// SetSregs2 is KVM_SET_SREGS2, KVM API 4.132. Needs CapSregs2.
func (v *VCPU) SetSregs2(s *Sregs2) error { return set(v.fd, "KVM_SET_SREGS2", kvmSetSregs2, s) }

// FPU is KVM_GET_FPU, KVM API 4.22. A snapshot takes Xsave, which has more.
func (v *VCPU) FPU() (FPU, error) { return get[FPU](v.fd, "KVM_GET_FPU", kvmGetFPU) }

// SetFPU is KVM_SET_FPU, KVM API 4.23.
func (v *VCPU) SetFPU(f *FPU) error { return set(v.fd, "KVM_SET_FPU", kvmSetFPU, f) }

// XsaveSize is the length of KVM_GET_XSAVE's structure, in bytes; with CapXsave2 a VM can need more.
const XsaveSize = 4096

// Xsave is KVM_GET_XSAVE2, KVM API 4.134, with the size that VM.CheckExtension(CapXsave2) gives, in bytes; or
// KVM_GET_XSAVE, KVM API 4.42, where that is 0. The layout is that of CPUID leaf 0xd.
func (v *VCPU) Xsave(size int) ([]byte, error) {
	b := make([]byte, max(size, XsaveSize))
	name, request := "KVM_GET_XSAVE2", uintptr(kvmGetXsave2)
	if size == 0 {
		name, request = "KVM_GET_XSAVE", kvmGetXsave
	}
	_, err := ioctlPtr(v.fd, name, request, &b[0])
	return b, err
}

// SetXsave is KVM_SET_XSAVE, KVM API 4.43, with what Xsave gave.
func (v *VCPU) SetXsave(b []byte) error {
	if len(b) < XsaveSize {
		return os.NewSyscallError("KVM_SET_XSAVE", unix.EINVAL)
	}
	return set(v.fd, "KVM_SET_XSAVE", kvmSetXsave, &b[0])
}

// XCRs is KVM_GET_XCRS, KVM API 4.44.
func (v *VCPU) XCRs() (XCRs, error) { return get[XCRs](v.fd, "KVM_GET_XCRS", kvmGetXCRs) }

// SetXCRs is KVM_SET_XCRS, KVM API 4.45.
func (v *VCPU) SetXCRs(x *XCRs) error { return set(v.fd, "KVM_SET_XCRS", kvmSetXCRs, x) }

// LAPIC is KVM_GET_LAPIC, KVM API 4.57.
func (v *VCPU) LAPIC() (LAPICState, error) {
	return get[LAPICState](v.fd, "KVM_GET_LAPIC", kvmGetLAPIC)
}

// SetLAPIC is KVM_SET_LAPIC, KVM API 4.58.
func (v *VCPU) SetLAPIC(s *LAPICState) error { return set(v.fd, "KVM_SET_LAPIC", kvmSetLAPIC, s) }

// MSRs is KVM_GET_MSRS, KVM API 4.18. It returns as many entries as the kernel could read before the first that it could
// not: fewer than len(indices) means that indices[len(result)] is not readable.
func (v *VCPU) MSRs(indices []uint32) ([]MSREntry, error) { return getMSRs(v.fd, indices) }

// SetMSRs is KVM_SET_MSRS, KVM API 4.19. The kernel sets them in order and stops at the first that it refuses, which
// becomes an MSRError.
func (v *VCPU) SetMSRs(msrs []MSREntry) error {
	buf, entries := table[MSREntry](len(msrs))
	copy(entries, msrs)
	n, err := ioctlPtr(v.fd, "KVM_SET_MSRS", kvmSetMSRs, &buf[0])
	if err == nil && n < len(msrs) {
		err = &MSRError{Position: n, Index: msrs[n].Index, Data: msrs[n].Data}
	}
	return err
}

// MSRError says that KVM refused to set an MSR; those before Position are set.
type MSRError struct {
	Position int
	Index    uint32
	Data     uint64
}

func (e *MSRError) Error() string {
	return fmt.Sprintf("KVM_SET_MSRS: MSR %#x refuses the value %#x", e.Index, e.Data)
}

// CPUID2 is KVM_GET_CPUID2, with the entries of KVM API 4.46.
func (v *VCPU) CPUID2() ([]CPUIDEntry, error) {
	return cpuidTable(v.fd, "KVM_GET_CPUID2", kvmGetCPUID2)
}

// SetCPUID2 is KVM_SET_CPUID2, with the entries of KVM API 4.46. Before the vCPU first runs.
func (v *VCPU) SetCPUID2(leaves []CPUIDEntry) error {
	buf, entries := table[CPUIDEntry](len(leaves))
	copy(entries, leaves)
	return set(v.fd, "KVM_SET_CPUID2", kvmSetCPUID2, &buf[0])
}

// Events is KVM_GET_VCPU_EVENTS, KVM API 4.31.
func (v *VCPU) Events() (VCPUEvents, error) {
	return get[VCPUEvents](v.fd, "KVM_GET_VCPU_EVENTS", kvmGetVCPUEvents)
}

// SetEvents is KVM_SET_VCPU_EVENTS, KVM API 4.32.
func (v *VCPU) SetEvents(e *VCPUEvents) error {
	return set(v.fd, "KVM_SET_VCPU_EVENTS", kvmSetVCPUEvents, e)
}

// DebugRegs is KVM_GET_DEBUGREGS, KVM API 4.33.
func (v *VCPU) DebugRegs() (DebugRegs, error) {
	return get[DebugRegs](v.fd, "KVM_GET_DEBUGREGS", kvmGetDebugRegs)
}

// SetDebugRegs is KVM_SET_DEBUGREGS, KVM API 4.34.
func (v *VCPU) SetDebugRegs(d *DebugRegs) error {
	return set(v.fd, "KVM_SET_DEBUGREGS", kvmSetDebugRegs, d)
}

// Interrupt is KVM_INTERRUPT, KVM API 4.16: it queues a vector on a vCPU without an in-kernel local APIC.
func (v *VCPU) Interrupt(vector uint32) error {
	return set(v.fd, "KVM_INTERRUPT", kvmInterrupt, &vector)
}

// NMI is KVM_NMI, KVM API 4.64.
func (v *VCPU) NMI() error {
	_, err := v.fd.ioctl("KVM_NMI", kvmNMI, 0)
	return err
}

// SetTSCKHz is KVM_SET_TSC_KHZ on a vCPU, KVM API 4.55.
func (v *VCPU) SetTSCKHz(khz int) error {
	_, err := v.fd.ioctl("KVM_SET_TSC_KHZ", kvmSetTSCKHz, uintptr(khz))
	return err
}

// TSCKHz is KVM_GET_TSC_KHZ on a vCPU, KVM API 4.56.
func (v *VCPU) TSCKHz() (int, error) { return v.fd.ioctl("KVM_GET_TSC_KHZ", kvmGetTSCKHz, 0) }

// The only attribute of a vCPU on x86: Documentation/virt/kvm/devices/vcpu.rst §4.1.
const (
	vcpuTSCCtrl   = 0 // group
	vcpuTSCOffset = 0 // attribute
)

// TSCOffset is KVM_GET_DEVICE_ATTR, KVM API 4.80, for KVM_VCPU_TSC_OFFSET: what is added to the host's TSC, modulo 2^64, to
// give the guest's. With it a snapshot keeps the TSCs of several vCPUs in step. Needs CapVCPUAttributes.
func (v *VCPU) TSCOffset() (uint64, error) {
	offset := make([]uint64, 1)
	arg := deviceAttr{Group: vcpuTSCCtrl, Attr: vcpuTSCOffset, Addr: addressOf(offset)}
	err := set(v.fd, "KVM_GET_DEVICE_ATTR", kvmGetDeviceAttr, &arg)
	runtime.KeepAlive(offset)
	return offset[0], err
}

// SetTSCOffset is KVM_SET_DEVICE_ATTR, KVM API 4.79, likewise.
func (v *VCPU) SetTSCOffset(offset uint64) error {
	value := []uint64{offset}
	arg := deviceAttr{Group: vcpuTSCCtrl, Attr: vcpuTSCOffset, Addr: addressOf(value)}
	err := set(v.fd, "KVM_SET_DEVICE_ATTR", kvmSetDeviceAttr, &arg)
	runtime.KeepAlive(value)
	return err
}

// KVMClockCtrl is KVM_KVMCLOCK_CTRL, KVM API 4.70: it tells a guest that uses kvm-clock that it was paused, so that its
// watchdogs keep quiet. It is EINVAL when the guest does not use kvm-clock.
func (v *VCPU) KVMClockCtrl() error {
	_, err := v.fd.ioctl("KVM_KVMCLOCK_CTRL", kvmKVMClockCtrl, 0)
	return err
}
