package vmm

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/devices"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/eventkick"
)

// slot is one virtio-mmio device with its interrupt and its queues' notifications.
type slot struct {
	base  guestmem.Addr
	gsi   uint32
	mmio  *virtio.MMIO
	kicks []*eventkick.Kick
	// events are the registered ioeventfds, by queue.
	events []kvm.IOEvent

	cancel context.CancelFunc
	group  sync.WaitGroup
}

// mmioDevices returns the windows and interrupts of the first n slots.
func mmioDevices(n int) []boot.MMIODevice {
	out := make([]boot.MMIODevice, n)
	for i := range out {
		out[i] = boot.MMIODevice{Base: boot.MMIOBase + guestmem.Addr(i)*boot.MMIOSlotSize, Size: boot.MMIOSlotSize, GSI: boot.FirstGSI + uint32(i)}
	}
	return out
}

func (v *VM) setUpDevices() error {
	if err := v.setUpLegacy(); err != nil {
		return err
	}
	devices := slices.Clone(v.cfg.Devices)
	if v.cfg.LateMemory {
		v.waiting = v.forMemory
	} else {
		devices = append(devices, v.forMemory...)
	}
	for i, window := range mmioDevices(v.cfg.devices()) {
		var d virtio.Device // none in a slot that is empty yet
		if i < len(devices) {
			d = devices[i]
		}
		s, err := v.newSlot(i, window, d)
		if s != nil {
			v.slots = append(v.slots, s)
		}
		if err != nil {
			return fmt.Errorf("virtio device %d: %w", i, err)
		}
	}
	return nil
}

// setUpLegacy wires the port devices: COM1 if it is wanted, the reset line of the keyboard controller, the phase port.
func (v *VM) setUpLegacy() error {
	if v.cfg.Serial != nil {
		v.serial = devices.NewSerial(v.cfg.Serial, func(level bool) { _ = v.vm.IRQLine(boot.COM1GSI, level) })
		if err := v.ports.Add(boot.COM1Port, devices.SerialSize, v.serial); err != nil {
			return err
		}
	}
	reset := devices.NewI8042(func() { v.end(ErrReset) })
	if err := v.ports.Add(boot.I8042Port, devices.I8042Size, reset); err != nil {
		return err
	}
	powerOff := devices.NewSleep(func() { v.end(ErrPowerOff) })
	if err := v.ports.Add(boot.SleepPort, devices.SleepSize, powerOff); err != nil {
		return err
	}
	if v.cfg.Phase != nil {
		return v.ports.Add(boot.PhasePort, devices.PhaseSize, devices.NewPhase(v.cfg.Phase))
	}
	return nil
}

func (v *VM) newSlot(i int, window boot.MMIODevice, d virtio.Device) (*slot, error) {
	s := &slot{base: window.Base, gsi: window.GSI}
	s.mmio = virtio.NewMMIO(d, v.mem, virtio.MMIOConfig{
		Name:      fmt.Sprintf("virtio%d", i),
		Interrupt: func() { v.edge(s.gsi) },
		Busy:      v.preferVCPUs,
		Logger:    v.cfg.Logger,
	})
	if err := v.mmio.Add(uint64(s.base), boot.MMIOSlotSize, mmioHandler{s.mmio}); err != nil {
		return s, err
	}
	return s, s.addKicks(v.vm)
}

// edge raises an interrupt of the IOAPIC's. An irqfd would take one system call in place of two, but KVM hands such an edge to a kernel
// thread, which delivers it when it gets a CPU; and to close a VM takes a grace period of RCU for each irqfd that it has had. It fails for a VM
// alone that is being closed.
//
// The line is lowered before, not after: several queues have one interrupt, and this thread may lose its CPU, to the vCPU that it has just
// woken, between the two. Where it then finds the line raised by another, that was after it had lowered it itself, and so after its event.
func (v *VM) edge(gsi uint32) {
	_ = v.vm.IRQLine(gsi, false)
	_ = v.vm.IRQLine(gsi, true)
}

// addKicks lets KVM turn a queue's notification into a wake-up of its worker, without an exit.
func (s *slot) addKicks(vm *kvm.VM) error {
	for q := range s.mmio.Queues() {
		k, err := eventkick.New()
		if err != nil {
			return err
		}
		s.kicks = append(s.kicks, k)
		e := kvm.IOEvent{Addr: uint64(s.base) + virtio.RegQueueNotify, Len: 4, Match: true, Data: uint64(q)}
		var regErr error
		if err := k.Control(func(fd int) { regErr = vm.IOEventFD(fd, e) }); err != nil {
			return err
		}
		if regErr != nil {
			return regErr
		}
		s.events = append(s.events, e)
	}
	return nil
}

func (v *VM) startDevices() {
	for _, s := range v.slots {
		v.startDevice(s)
	}
}

func (v *VM) startDevice(s *slot) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for i, k := range s.kicks {
		s.group.Go(func() {
			err := v.mem.Guard(func() error { return s.mmio.ServeQueue(ctx, i, k) })
			if err != nil && ctx.Err() == nil {
				v.end(fmt.Errorf("virtio device at %#x, queue %d: %w", uint64(s.base), i, err))
			}
		})
	}
}

func (v *VM) stopDevices() {
	for _, s := range v.slots {
		if s.cancel != nil {
			s.cancel()
		}
	}
	for _, s := range v.slots {
		s.stop()
	}
}

// stop ends the workers and waits for them.
func (s *slot) stop() {
	if s.cancel != nil {
		s.cancel()
	}
	for _, k := range s.kicks {
		k.Poke()
	}
	s.group.Wait()
}

// empty takes the device out of the slot, so that none of its goroutines touches guest memory any more, and its eventfds out of
// KVM, and closes them.
func (s *slot) empty(vm *kvm.VM, mem *guestmem.Memory) {
	if s.mmio != nil {
		_ = mem.Guard(func() error {
			s.mmio.Detach()
			return nil
		})
	}
	for i, e := range s.events {
		_ = s.kicks[i].Control(func(fd int) { _ = vm.RemoveIOEventFD(fd, e) })
	}
	for _, k := range s.kicks {
		_ = k.Close()
	}
	s.events, s.kicks = nil, nil
}

// mmioHandler fits virtio's transport to the bus.
type mmioHandler struct{ m *virtio.MMIO }

func (h mmioHandler) Read(off uint64, p []byte)  { h.m.ReadMMIO(off, p) }
func (h mmioHandler) Write(off uint64, p []byte) { h.m.WriteMMIO(off, p) }

// InputAll gives all of p to COM1, waiting while the guest does not read it; it gives up when the VM ends.
func (v *VM) InputAll(p []byte) {
	if v.serial != nil {
		_ = v.serial.FeedAll(v.ctx, p)
	}
}
