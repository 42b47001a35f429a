package vmm

import "github.com/govmm/govmm/kvm"

// Host is an open KVM device, on which the making of a VM has begun. A process that leaves the file tree in which the
// device stands opens it before, and all it does meanwhile costs no time: before Linux 6.13 KVM_CREATE_VM moves a kernel
// thread into the caller's cgroup, which waits for a grace period of the host's RCU, some 10 ms.
type Host struct {
	sys  *kvm.System
	made chan struct{} // closed when vm and err are set
	vm   *kvm.VM       // until it is taken
	err  error
}

// OpenHost opens the KVM device at path, /dev/kvm if it is empty. Its errors say what to do.
func OpenHost(path string) (*Host, error) {
	if path == "" {
		path = "/dev/kvm"
	}
	sys, err := kvm.OpenPath(path)
	if err != nil {
		return nil, err
	}
	h := &Host{sys: sys, made: make(chan struct{})}
	go func() {
		defer close(h.made)
		h.vm, h.err = sys.CreateVM()
	}()
	return h, nil
}

// take waits for the VM and hands it over, once.
func (h *Host) take() (*kvm.VM, error) {
	<-h.made
	vm := h.vm
	h.vm = nil
	return vm, h.err
}

// Close closes the device, and the VM that nobody has taken. A VM closes the Host that it was made with.
func (h *Host) Close() error {
	if vm, _ := h.take(); vm != nil {
		_ = vm.Close()
	}
	return h.sys.Close()
}
