package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// APIVersion is the only version of the KVM API that exists in practice; KVM API 4.1 tells applications to refuse others.
const APIVersion = 12

// System is an open /dev/kvm.
type System struct {
	fd      *fd
	runSize int
}

// Open opens /dev/kvm and checks its API version. The caller closes it; VMs made from it outlive it.
func Open() (*System, error) { return OpenPath("/dev/kvm") }

// OpenPath is Open for a device node that has another path. Its errors are of type *OpenError.
func OpenPath(path string) (*System, error) {
	num, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(&os.PathError{Op: "open", Path: path, Err: err})
	}
	s, err := NewSystem(num)
	if err != nil {
		return nil, openError(fmt.Errorf("%s: %w", path, err))
	}
	return s, nil
}

// NewSystem makes a System of a descriptor of /dev/kvm that was opened elsewhere, such as before a change of root. It
// takes ownership of the descriptor, also when it fails.
func NewSystem(num int) (*System, error) {
	s := &System{fd: &fd{num: num}}
	version, err := s.APIVersion()
	if err == nil && version != APIVersion {
		err = fmt.Errorf("KVM API version %d, want %d", version, APIVersion)
	}
	if err == nil {
		s.runSize, err = s.VCPUMmapSize()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// OpenError says why there is no KVM, and what to do.
type OpenError struct {
	Err    error
	Remedy string
}

// Error implements error.
func (e *OpenError) Error() string { return e.Err.Error() + ": " + e.Remedy }

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

func openError(err error) error {
	e := &OpenError{err, "use Linux 5.15 or later with KVM"}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Remedy = "load the module kvm_amd or kvm_intel, and turn on virtualisation in the firmware or in the outer VM"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Remedy = "run as root, or add the user to the group kvm"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		e.Remedy = "the processor has no virtualisation, or the module kvm_amd or kvm_intel is not loaded"
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EISDIR):
		e.Remedy = "this is not the KVM device: mknod /dev/kvm c 10 232, with the module kvm_amd or kvm_intel loaded"
	}
	return e
}

// Close closes the descriptor. Closing again does nothing.
func (s *System) Close() error {
	s.fd.close()
	return nil
}

// APIVersion is KVM_GET_API_VERSION, KVM API 4.1.
func (s *System) APIVersion() (int, error) {
	return s.fd.ioctl("KVM_GET_API_VERSION", kvmGetAPIVersion, 0)
}

// CreateVM is KVM_CREATE_VM with machine type 0, KVM API 4.2.
func (s *System) CreateVM() (*VM, error) {
	num, err := s.fd.ioctl("KVM_CREATE_VM", kvmCreateVM, 0)
	if err != nil {
		return nil, err
	}
	return &VM{fd: &fd{num: num}, runSize: s.runSize}, nil
}

// CheckExtension is KVM_CHECK_EXTENSION, KVM API 4.4: 0 when the host lacks the capability, else 1 or the capability's
// own figure. VM.CheckExtension is the more exact one.
func (s *System) CheckExtension(c Cap) (int, error) {
	return s.fd.ioctl("KVM_CHECK_EXTENSION", kvmCheckExtension, uintptr(c))
}

// VCPUMmapSize is KVM_GET_VCPU_MMAP_SIZE, KVM API 4.5: the length of a vCPU's kvm_run mapping, in bytes.
func (s *System) VCPUMmapSize() (int, error) {
	return s.fd.ioctl("KVM_GET_VCPU_MMAP_SIZE", kvmGetVCPUMmapSize, 0)
}
