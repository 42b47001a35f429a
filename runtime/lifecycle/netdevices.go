package lifecycle

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/govmm/govmm/runtime/network"
)

// moveDevices puts the interfaces of linux.netDevices into the container's network namespace, which the monitor is in. It finds them
// there as if the engine had made them.
func (c *created) moveDevices() error {
	list := c.spec.Linux.NetDevices
	if len(list) == 0 {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.monitor.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	var devices []network.Device
	for _, name := range slices.Sorted(maps.Keys(list)) {
		d := network.Device{Name: name, NewName: list[name].Name}
		if d.NewName == "" {
			d.NewName = name
		}
		devices = append(devices, d)
	}
	if err := network.Move(devices, ns); err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	return nil
}
