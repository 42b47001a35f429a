package guest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/govmm/govmm/runtime/agent"
)

// Where the kernel shows virtio-mmio's slots, lets a driver be bound to one, and shows network interfaces.
const (
	platformDevices = "/sys/bus/platform/devices"
	bindFile        = "/sys/bus/platform/drivers/virtio-mmio/bind"
	unbindFile      = "/sys/bus/platform/drivers/virtio-mmio/unbind"
	netClass        = "/sys/class/net"
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

// unplug takes the driver off the slot of a network interface, which ends the interface. Whatever its name is by now.
func unplug(index int32) error {
	interfaces, err := os.ReadDir(netClass)
	if err != nil {
		return err
	}
	for _, d := range interfaces {
		dir := netClass + "/" + d.Name()
		b, err := os.ReadFile(dir + "/ifindex")
		if err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(int(index)) {
			continue
		}
		device, err := filepath.EvalSymlinks(dir + "/device") // .../<slot>/virtioN
		if err != nil {
			return err
		}
		slot := filepath.Base(filepath.Dir(device))
		if !isSlot(slot) {
			break
		}
		return writeFile(unbindFile, slot)
	}
	return failure(agent.NotFound, "no such network interface")
}
