package kvm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is Run's answer when a signal or immediate_exit ended it, or when a vCPU that waits for INIT or SIPI
// was woken: nothing happened in the guest, look for requests and go round.
var ErrInterrupted = errors.New("KVM_RUN interrupted")

// VCPU is a virtual processor and its kvm_run page.
type VCPU struct {
	fd  *fd
	run *runPage
}

func newVCPU(f *fd) *VCPU { return &VCPU{fd: f, run: newRunPage(f.mapping)} }

// Close closes the descriptor and unmaps kvm_run. While Run is under way both happen when it returns. Nobody may use an
// exit's data any more. Closing again does nothing.
func (v *VCPU) Close() error {
	v.fd.close()
	return nil
}

// Run is KVM_RUN, KVM API 4.10: it enters the guest and returns why it left. The accessors (IO, MMIO, ...) then give
// the details until the next Run, which also completes the instruction that an IO or MMIO exit interrupted. The
// goroutine must be locked to its thread. It allocates nothing.
func (v *VCPU) Run() (ExitReason, error) {
	if !v.fd.acquire() {
		return ExitUnknown, os.NewSyscallError("KVM_RUN", unix.EBADF)
	}
	// Not RawSyscall: with a guest that spins it would keep the P, and the next garbage collection would stop the
	// whole process.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.fd.num), kvmRun, 0)
	reason := v.run.exitReason
	v.fd.release()
	switch errno {
	case 0:
		return reason, nil
	case unix.EINTR, unix.EAGAIN:
		return ExitIntr, ErrInterrupted
	}
	return reason, os.NewSyscallError("KVM_RUN", errno)
}

// SetImmediateExit makes the present or next Run, if on, return ErrInterrupted before it enters the guest, KVM API 5:
// immediate_exit. A Run that is already in the guest does not see it; that takes a signal, see Kick.
func (v *VCPU) SetImmediateExit(on bool) {
	if !v.fd.acquire() {
		return
	}
	defer v.fd.release()
	v.run.setImmediateExit(on)
}

// Kick makes the Run of thread tid of this process, present or next, return ErrInterrupted. To lose no kick, the caller
// writes its request first, and the vCPU's thread calls SetImmediateExit(false) after ErrInterrupted and only then reads
// the request. SIGURG is what the Go runtime interrupts threads with itself, so it needs no handler.
// It is ESRCH when the thread is gone.
func (v *VCPU) Kick(tid int) error {
	v.SetImmediateExit(true)
	return os.NewSyscallError("tgkill", unix.Tgkill(unix.Getpid(), tid, unix.SIGURG))
}

// EnableCap is KVM_ENABLE_CAP on a vCPU, KVM API 4.37.
func (v *VCPU) EnableCap(c Cap, args ...uint64) error { return enableCap(v.fd, c, args) }

// MPState is KVM_GET_MP_STATE, KVM API 4.38.
func (v *VCPU) MPState() (MPState, error) {
	return get[MPState](v.fd, "KVM_GET_MP_STATE", kvmGetMPState)
}

// SetMPState is KVM_SET_MP_STATE, KVM API 4.39.
func (v *VCPU) SetMPState(s MPState) error { return set(v.fd, "KVM_SET_MP_STATE", kvmSetMPState, &s) }

// SetGuestDebug is KVM_SET_GUEST_DEBUG, KVM API 4.87.
func (v *VCPU) SetGuestDebug(d *GuestDebug) error {
	return set(v.fd, "KVM_SET_GUEST_DEBUG", kvmSetGuestDebug, d)
}

// Translate is KVM_TRANSLATE, KVM API 4.15: where the vCPU's page tables map a linear address.
func (v *VCPU) Translate(linear uint64) (Translation, error) {
	arg := Translation{LinearAddress: linear}
	err := set(v.fd, "KVM_TRANSLATE", kvmTranslate, &arg)
	return arg, err
}
