package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/virtio"
)

const (
	// attachTime is how long after its create a container gets the devices for memory. One that has ended by then was
	// quicker by what it costs the guest to probe them.
	attachTime = 5 * time.Second
	// plugTime is how long a guest may take to take in memory for a higher limit, on slow emulated hosts too.
	plugTime = 30 * time.Second
	plugPoll = 5 * time.Millisecond
)

// attachMemory gives the guest its balloon, through which freed memory goes back to the host, and virtio-mem, once. It does not wait for
// the guest to find them: one that does not answer must not hold up who asks.
func (m *monitor) attachMemory() error {
	m.attach.Do(func() {
		if m.attached = m.vm.AttachMemory(); m.attached != nil {
			return
		}
		go func() {
			if err := m.guest.Plug(); err != nil {
				m.log.Debug("the guest does not look for its devices for memory", "error", err)
			}
		}()
	})
	return m.attached
}

// maxMemory is how much RAM the guest may ask for, in bytes, 0 if it may not.
func (m *monitor) maxMemory() uint64 {
	most := m.vm.MaxMemory()
	if most <= m.vm.Memory() || !oci.AsksForMemory(m.cfg.Spec) {
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
		_ = m.attachMemory()
		given = min(max(given, 2*m.vm.PluggedMemory()), most)
		err := m.vm.SetMemory(given)
		if ok, dropped := limiter.Allow(); ok {
			m.log.Debug("the guest asks for memory", "MiB", given>>20, "error", err, "suppressed", dropped)
		}
	}
}

// makeRoom gives the guest enough RAM for a memory limit of so many bytes, and waits until it has it.
func (m *monitor) makeRoom(limit uint64) error {
	ram := m.vm.PluggedMemory()
	if limit <= oci.LimitFor(ram) {
		return nil
	}
	need := min(oci.RAMFor(limit), m.vm.MaxMemory()) // a limit beyond the host's memory is none
	if need <= ram {
		if m.vm.MaxMemory() > m.vm.Memory() {
			return nil
		}
		return fmt.Errorf("the guest has %d MiB of RAM, which is enough for a memory limit of %d bytes, and its config lets it have no more: "+
			"create the container without a fixed size of RAM, or with a bigger one", ram>>20, oci.LimitFor(ram))
	}
	if m.paused.Load() {
		return fmt.Errorf("a limit of %d bytes takes more RAM than the guest has, and it takes in none while it is paused: resume it first", limit)
	}
	if err := m.attachMemory(); err != nil {
		return err
	}
	if err := m.vm.SetMemory(need); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), plugTime)
	defer cancel()
	poll := time.NewTicker(plugPoll)
	defer poll.Stop()
	for m.vm.PluggedMemory() < need {
		select {
		case <-poll.C:
		case <-m.guest.Done():
			return m.explain(errors.New("the guest ended"))
		case <-ctx.Done():
			return fmt.Errorf("the guest has %d MiB of RAM, and in %v it took in no more of the %d MiB that a limit of %d bytes takes: "+
				"its kernel needs CONFIG_VIRTIO_MEM", m.vm.PluggedMemory()>>20, plugTime, need>>20, limit)
		}
	}
	return nil
}
