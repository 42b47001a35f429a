package monitor

import (
	"github.com/govmm/govmm/virtio"
)

// maxMemory is how much RAM the guest may ask for, in bytes, 0 if it may not.
func (m *monitor) maxMemory() uint64 {
	most := m.vm.MaxMemory()
	if most <= m.vm.Memory() {
		return 0
	}
	return most
}

// serveMemory gives the guest more memory whenever it asks, twice as much each time, up to most bytes. What that costs
// the host is what the guest touches; the container's cgroup counts it.
func (m *monitor) serveMemory(most uint64) {
	var limiter virtio.Limiter
	for given := uint64(0); ; {
		select {
		case <-m.guest.MemoryLow():
		case <-m.guest.Done():
			return
		}
		given = min(max(given, 2*m.vm.PluggedMemory()), most)
		err := m.vm.SetMemory(given)
		if ok, dropped := limiter.Allow(); ok {
			m.log.Debug("the guest asks for memory", "MiB", given>>20, "error", err, "suppressed", dropped)
		}
	}
}
