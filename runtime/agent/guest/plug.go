package guest

import (
	"os"
	"strings"
)

// Where the kernel shows virtio-mmio's slots, and lets a driver be bound to one.
const (
	platformDevices = "/sys/bus/platform/devices"
	bindFile        = "/sys/bus/platform/drivers/virtio-mmio/bind"
)

// plug binds the driver to every slot that has none. At boot it passed over those that were empty (virtio 1.2 §4.2.2.1); those that
// still are it passes over again.
func plug() error {
	devices, err := os.ReadDir(platformDevices)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if !isSlot(d.Name()) {
			continue
		}
		if _, err := os.Lstat(platformDevices + "/" + d.Name() + "/driver"); err == nil {
			continue
		}
		_ = writeFile(bindFile, d.Name())
	}
	return nil
}

// isSlot knows the names that the command line's and ACPI's slots have.
func isSlot(name string) bool {
	return strings.HasPrefix(name, "virtio-mmio.") || strings.HasPrefix(name, "LNRO0005:")
}
