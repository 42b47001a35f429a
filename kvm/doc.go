// Package kvm is Linux's KVM API with one Go method per ioctl: on System (/dev/kvm), VM and VCPU. It adds ownership of
// the descriptors, errors that name the ioctl, and typed views of the kvm_run page; it knows nothing of memory layout,
// devices or policy, it starts no goroutine and it does not log.
//
// "KVM API 4.x" in a comment is a section of the kernel's Documentation/virt/kvm/api.rst.
//
// Every method may be called from any goroutine, except that KVM wants a VCPU's methods called from the thread that
// runs it (while KVM_RUN is under way, the others block). Kick and SetImmediateExit are for other threads. After Close
// every method returns an error that is unix.EBADF.
package kvm
