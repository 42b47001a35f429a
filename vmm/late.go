package vmm

import (
	"context"
	"errors"
	"slices"

	"github.com/govmm/govmm/virtio"
)

// ErrNoSlot reports that no slot is left for a late device.
var ErrNoSlot = errors.New("vmm: no slot is left for another device: make the VM with more LateDevices")

// Attach puts a device into an empty slot of a VM that may be running. The guest has passed over the slot; its driver finds the
// device when it is bound to it anew.
func (v *VM) Attach(d virtio.Device) error {
	v.life.Lock()
	defer v.life.Unlock()
	if len(v.emptySlots()) <= len(v.waiting) {
		return ErrNoSlot
	}
	return v.attach(d)
}

// Detach takes a device that Attach has put into its slot out of it, and lets go of it: no method of it is called any more, the slot
// can have another. The guest's driver should have been unbound before; it finds the slot empty in any case.
func (v *VM) Detach(d virtio.Device) error {
	v.life.Lock()
	defer v.life.Unlock()
	i := slices.IndexFunc(v.slots, func(s *slot) bool { return s.mmio.Device() == d })
	if i < len(v.cfg.Devices) {
		return errors.New("vmm: no such late device")
	}
	s := v.slots[i]
	s.stop()
	s.empty(v.vm, v.mem)
	return nil
}

// AttachMemory puts the devices for memory into their slots where LateMemory left them out, once.
func (v *VM) AttachMemory() error {
	v.life.Lock()
	defer v.life.Unlock()
	v.grow.Lock()
	defer v.grow.Unlock()
	if v.ctx.Err() != nil {
		return context.Cause(v.ctx)
	}
	for len(v.waiting) > 0 {
		if err := v.attach(v.waiting[0]); err != nil {
			return err
		}
		v.waiting = v.waiting[1:]
	}
	return nil
}

// attach puts a device into the first empty slot; the caller holds life.
func (v *VM) attach(d virtio.Device) error {
	if v.ctx.Err() != nil {
		return context.Cause(v.ctx)
	}
	s := v.emptySlots()[0]
	if err := s.mmio.Attach(d); err != nil {
		return err
	}
	if err := s.addKicks(v.vm); err != nil {
		s.empty(v.vm, v.mem)
		return err
	}
	if v.started {
		v.startDevice(s)
	}
	return nil
}

func (v *VM) emptySlots() []*slot {
	var out []*slot
	for _, s := range v.slots {
		if s.mmio.Device() == nil {
			out = append(out, s)
		}
	}
	return out
}
