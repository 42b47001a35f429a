package vmm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// explainOpen adds the remedy to an error of opening the KVM device.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: load the module kvm_intel or kvm_amd, and enable virtualisation in the firmware or, on a virtual host, nested virtualisation", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run as root or add the user to the group that owns %s (usually kvm)", err, path)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: the kernel has no KVM for this processor", err)
	}
	return err
}
