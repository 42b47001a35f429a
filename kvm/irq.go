package kvm

// Routing entry types, KVM API 4.52.
const (
	RoutingIRQChip = 1
	RoutingMSI     = 2
)

// RoutingEntry is struct kvm_irq_routing_entry: what raising a GSI does. Make one with RouteIRQChip or RouteMSI.
type RoutingEntry struct {
	GSI   uint32
	Type  uint32
	Flags uint32
	_     uint32
	Data  [8]uint32
}

// RouteIRQChip routes gsi to a pin of one of the in-kernel interrupt controllers.
func RouteIRQChip(gsi uint32, chip IRQChipID, pin uint32) RoutingEntry {
	return RoutingEntry{GSI: gsi, Type: RoutingIRQChip, Data: [8]uint32{uint32(chip), pin}}
}

// RouteMSI routes gsi to a message-signalled interrupt.
func RouteMSI(gsi uint32, address uint64, data uint32) RoutingEntry {
	return RoutingEntry{GSI: gsi, Type: RoutingMSI, Data: [8]uint32{uint32(address), uint32(address >> 32), data}}
}

// SetGSIRouting is KVM_SET_GSI_ROUTING, KVM API 4.52: it replaces the whole table.
func (vm *VM) SetGSIRouting(routes []RoutingEntry) error {
	buf, entries := table[RoutingEntry](len(routes))
	copy(entries, routes)
	return set(vm.fd, "KVM_SET_GSI_ROUTING", kvmSetGSIRouting, &buf[0])
}

// IRQLine is KVM_IRQ_LINE, KVM API 4.25: it sets the level of a GSI.
func (vm *VM) IRQLine(gsi uint32, level bool) error {
	arg := irqLevel{IRQ: gsi}
	if level {
		arg.Level = 1
	}
	return set(vm.fd, "KVM_IRQ_LINE", kvmIRQLine, &arg)
}

// IRQFD is KVM_IRQFD, KVM API 4.75: each write to the eventfd raises gsi as an edge. The descriptor is only borrowed for
// the call; KVM holds the eventfd itself.
func (vm *VM) IRQFD(eventfd int, gsi uint32) error {
	return set(vm.fd, "KVM_IRQFD", kvmIRQFD, &irqfd{FD: uint32(eventfd), GSI: gsi})
}

// IRQFDResample is IRQFD for a level-triggered gsi: it stays raised until the guest acknowledges it, when KVM lowers it
// and writes to the resample eventfd.
func (vm *VM) IRQFDResample(eventfd, resample int, gsi uint32) error {
	arg := irqfd{FD: uint32(eventfd), GSI: gsi, Flags: irqfdResample, ResampleFD: uint32(resample)}
	return set(vm.fd, "KVM_IRQFD", kvmIRQFD, &arg)
}

// RemoveIRQFD undoes IRQFD and IRQFDResample.
func (vm *VM) RemoveIRQFD(eventfd int, gsi uint32) error {
	arg := irqfd{FD: uint32(eventfd), GSI: gsi, Flags: irqfdDeassign}
	return set(vm.fd, "KVM_IRQFD", kvmIRQFD, &arg)
}

// IOEvent is a write of the guest that signals an eventfd instead of ending KVM_RUN, KVM API 4.59.
type IOEvent struct {
	// Addr is a guest-physical address, or an I/O port when Port is set.
	Addr uint64
	// Len is the width of the write: 1, 2, 4 or 8 bytes, or 0 for any (which KVM handles fastest).
	Len uint32
	// Port says that Addr is in the I/O port space.
	Port bool
	// Match says that only a write of Data counts.
	Match bool
	Data  uint64
}

func (e IOEvent) arg(eventfd int) ioeventfd {
	arg := ioeventfd{Addr: e.Addr, Len: e.Len, FD: int32(eventfd)}
	if e.Port {
		arg.Flags |= ioeventfdPIO
	}
	if e.Match {
		arg.Flags |= ioeventfdDatamatch
		arg.Datamatch = e.Data
	}
	return arg
}

// IOEventFD is KVM_IOEVENTFD, KVM API 4.59. The descriptor is only borrowed for the call.
func (vm *VM) IOEventFD(eventfd int, e IOEvent) error {
	arg := e.arg(eventfd)
	return set(vm.fd, "KVM_IOEVENTFD", kvmIOEventFD, &arg)
}

// RemoveIOEventFD undoes IOEventFD, given the same arguments.
func (vm *VM) RemoveIOEventFD(eventfd int, e IOEvent) error {
	arg := e.arg(eventfd)
	arg.Flags |= ioeventfdDeassign
	return set(vm.fd, "KVM_IOEVENTFD", kvmIOEventFD, &arg)
}

// SignalMSI is KVM_SIGNAL_MSI, KVM API 4.71: it delivers a message-signalled interrupt at once, and reports whether the
// guest took it (false: it was blocked or coalesced).
func (vm *VM) SignalMSI(address uint64, data uint32) (bool, error) {
	arg := msi{AddressLo: uint32(address), AddressHi: uint32(address >> 32), Data: data}
	n, err := ioctlPtr(vm.fd, "KVM_SIGNAL_MSI", kvmSignalMSI, &arg)
	return n > 0, err
}
