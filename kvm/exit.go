package kvm

import "fmt"

// ExitReason says why Run returned; it is kvm_run's exit_reason, KVM API 5.
type ExitReason uint32

// The exit reasons that x86 has. Those with details have an accessor on VCPU.
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2 // VCPU.IO
	ExitHypercall     ExitReason = 3 // VCPU.Hypercall
	ExitDebug         ExitReason = 4 // VCPU.Debug
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6 // VCPU.MMIO
	ExitIRQWindowOpen ExitReason = 7
	ExitShutdown      ExitReason = 8 // a triple fault
	ExitFailEntry     ExitReason = 9 // VCPU.FailEntry
	ExitIntr          ExitReason = 10
	ExitSetTPR        ExitReason = 11
	ExitTPRAccess     ExitReason = 12
	ExitNMI           ExitReason = 16
	ExitInternalError ExitReason = 17 // VCPU.InternalError
	ExitSystemEvent   ExitReason = 24 // VCPU.SystemEvent
	ExitIOAPICEOI     ExitReason = 26 // VCPU.EOIVector
	ExitRDMSR         ExitReason = 29 // VCPU.MSR
	ExitWRMSR         ExitReason = 30 // VCPU.MSR
	ExitDirtyRingFull ExitReason = 31
	ExitBusLock       ExitReason = 33
	ExitNotify        ExitReason = 37
	ExitMemoryFault   ExitReason = 39
)

// IO is an ExitIO: an in or out instruction, or Count of them with a rep prefix.
type IO struct {
	Port uint16
	// In is true for in, which wants Data filled, and false for out, whose Data the guest wrote.
	In bool
	// Size is the width of one access in bytes: 1, 2 or 4.
	Size int
	// Count is the number of accesses.
	Count int
	// Data is Size*Count bytes of the kvm_run mapping.
	Data []byte
}

// MMIO is an ExitMMIO: an access to guest-physical memory without a slot.
type MMIO struct {
	Addr uint64
	// Write is false for a read, which wants Data filled.
	Write bool
	// Data is the 1 to 8 bytes of the access, in the kvm_run mapping.
	Data []byte
}

type ioExit struct {
	direction  uint8
	size       uint8
	port       uint16
	count      uint32
	dataOffset uint64
}

type mmioExit struct {
	physAddr uint64
	data     [8]byte
	len      uint32
	isWrite  uint8
}

// IO is the last exit, an ExitIO.
func (v *VCPU) IO() IO {
	e := union[ioExit](v.run)
	n := uint64(e.size) * uint64(e.count)
	return IO{
		Port: e.port, In: e.direction == 0, Size: int(e.size), Count: int(e.count),
		Data: v.fd.mapping[e.dataOffset:][:n:n],
	}
}

// MMIO is the last exit, an ExitMMIO.
func (v *VCPU) MMIO() MMIO {
	e := union[mmioExit](v.run)
	n := min(e.len, 8)
	return MMIO{Addr: e.physAddr, Write: e.isWrite != 0, Data: e.data[:n:n]}
}

// InternalError is an ExitInternalError: KVM gave up, mostly because its emulator lacks an instruction.
type InternalError struct {
	Suberror InternalSuberror
	NData    uint32
	Data     [16]uint64
}

// InternalSuberror is the kind of an InternalError.
type InternalSuberror uint32

// The kinds of internal errors.
const (
	InternalErrorEmulation            InternalSuberror = 1
	InternalErrorSimulEx              InternalSuberror = 2
	InternalErrorDeliveryEv           InternalSuberror = 3
	InternalErrorUnexpectedExitReason InternalSuberror = 4
)

// InternalError is the last exit, an ExitInternalError.
func (v *VCPU) InternalError() InternalError { return *union[InternalError](v.run) }

// Instruction is the bytes at the instruction pointer of an emulation failure, or nil if KVM did not report them.
func (e *InternalError) Instruction() []byte {
	const hasBytes = 1 << 0 // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES in flags, which is Data[0]
	if e.Suberror != InternalErrorEmulation || e.NData < 3 || e.Data[0]&hasBytes == 0 {
		return nil
	}
	n := min(e.Data[1]&0xff, 15)
	b := make([]byte, 0, 15)
	for i := uint64(1); i <= n; i++ {
		b = append(b, byte(e.Data[1+i/8]>>(i%8*8)))
	}
	return b
}

func (e InternalError) Error() string {
	switch e.Suberror {
	case InternalErrorEmulation:
		if b := e.Instruction(); b != nil {
			return fmt.Sprintf("KVM internal error: cannot emulate the instruction % x", b)
		}
		return "KVM internal error: cannot emulate an instruction"
	case InternalErrorSimulEx:
		return "KVM internal error: simultaneous exceptions"
	case InternalErrorDeliveryEv:
		return fmt.Sprintf("KVM internal error: unexpected exit while delivering an event %#x", e.data())
	}
	return fmt.Sprintf("KVM internal error: suberror %d, data %#x", uint32(e.Suberror), e.data())
}

func (e *InternalError) data() []uint64 { return e.Data[:min(e.NData, 16)] }

// FailEntry is an ExitFailEntry: the processor refused the guest's state. Package entrycheck may know why.
type FailEntry struct {
	Reason uint64
	CPU    uint32
}

// FailEntry is the last exit, an ExitFailEntry.
func (v *VCPU) FailEntry() FailEntry { return *union[FailEntry](v.run) }

func (e FailEntry) Error() string {
	return fmt.Sprintf("KVM entry failed: hardware reason %#x on host processor %d", e.Reason, e.CPU)
}

// SystemEvent is an ExitSystemEvent.
type SystemEvent struct {
	Type  SystemEventType
	NData uint32
	Data  [16]uint64
}

// SystemEventType is the kind of a SystemEvent.
type SystemEventType uint32

// The kinds of system events.
const (
	SystemEventShutdown SystemEventType = 1
	SystemEventReset    SystemEventType = 2
	SystemEventCrash    SystemEventType = 3
)

// SystemEvent is the last exit, an ExitSystemEvent.
func (v *VCPU) SystemEvent() SystemEvent { return *union[SystemEvent](v.run) }

// Hypercall is an ExitHypercall; the caller sets its result with SetHypercallResult.
type Hypercall struct {
	Nr       uint64
	Args     [6]uint64
	Ret      uint64
	LongMode uint32
	_        uint32
}

// Hypercall is the last exit, an ExitHypercall.
func (v *VCPU) Hypercall() Hypercall { return *union[Hypercall](v.run) }

// SetHypercallResult is what the guest gets in RAX at the next Run.
func (v *VCPU) SetHypercallResult(ret uint64) { union[Hypercall](v.run).Ret = ret }

// MSRAccess is an ExitRDMSR or ExitWRMSR, KVM API 7.21.
type MSRAccess struct {
	// Failed makes the next Run raise #GP in the guest.
	Failed uint8
	_      [7]byte
	Reason uint32
	Index  uint32
	Data   uint64
}

// MSR is the last exit, an ExitRDMSR or ExitWRMSR. The caller writes Data or Failed through the pointer, which is into
// the kvm_run mapping.
func (v *VCPU) MSR() *MSRAccess { return union[MSRAccess](v.run) }

// Debug is an ExitDebug.
type Debug struct {
	Exception uint32
	_         uint32
	PC        uint64
	DR6       uint64
	DR7       uint64
}

// Debug is the last exit, an ExitDebug.
func (v *VCPU) Debug() Debug { return *union[Debug](v.run) }

// EOIVector is the vector of the last exit, an ExitIOAPICEOI.
func (v *VCPU) EOIVector() uint8 { return v.run.exit[0] }

// HardwareExitReason is the processor's own exit code of the last exit, an ExitUnknown.
func (v *VCPU) HardwareExitReason() uint64 { return *union[uint64](v.run) }

// RequestInterruptWindow asks for an ExitIRQWindowOpen as soon as the guest can take an interrupt; for a vCPU without an
// in-kernel local APIC.
func (v *VCPU) RequestInterruptWindow(on bool) { v.run.setInterruptWindow(on) }

// ReadyForInterrupt reports whether Interrupt would be taken at the next Run.
func (v *VCPU) ReadyForInterrupt() bool { return v.run.readyForInterrupt != 0 }
