package kvm

// Regs is struct kvm_regs, KVM API 4.11.
type Regs struct {
	RAX, RBX, RCX, RDX uint64
	RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11   uint64
	R12, R13, R14, R15 uint64
	RIP, RFLAGS        uint64
}

// Segment is struct kvm_segment: a segment register with its hidden part.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8
	L        uint8
	G        uint8
	AVL      uint8
	Unusable uint8
	_        uint8
}

// DTable is struct kvm_dtable: GDTR or IDTR.
type DTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs is struct kvm_sregs, KVM API 4.13.
type Sregs struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// Sregs2PDPTRsValid in Sregs2.Flags says that PDPTRs are given.
const Sregs2PDPTRsValid = 1

// Sregs2 is struct kvm_sregs2, KVM API 4.131: Sregs with the PDPTRs and without the interrupt bitmap.
type Sregs2 struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	Flags                   uint64
	PDPTRs                  [4]uint64
}

// FPU is struct kvm_fpu, KVM API 4.22.
type FPU struct {
	FPR        [8][16]byte
	FCW        uint16
	FSW        uint16
	FTWX       uint8 // in fxsave format
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// MSREntry is struct kvm_msr_entry.
type MSREntry struct {
	Index uint32
	_     uint32
	Data  uint64
}

// CPUIDSignificantIndex in CPUIDEntry.Flags says that the leaf has sub-leaves and Index selects one.
const CPUIDSignificantIndex = 1

// CPUIDEntry is struct kvm_cpuid_entry2.
type CPUIDEntry struct {
	Function uint32
	Index    uint32
	Flags    uint32
	EAX      uint32
	EBX      uint32
	ECX      uint32
	EDX      uint32
	_        [3]uint32
}

// IRQChip is struct kvm_irqchip: the state of one interrupt controller, KVM API 4.26.
type IRQChip struct {
	ChipID IRQChipID
	_      uint32
	Chip   [512]byte
}

// IOAPICState is struct kvm_ioapic_state.
type IOAPICState struct {
	BaseAddress uint64
	IORegSel    uint32
	ID          uint32
	IRR         uint32
	_           uint32
	RedirTbl    [24]uint64
}

type pitConfig struct {
	Flags uint32
	_     [15]uint32
}

// PITChannelState is struct kvm_pit_channel_state.
type PITChannelState struct {
	Count         uint32
	LatchedCount  uint16
	CountLatched  uint8
	StatusLatched uint8
	Status        uint8
	ReadState     uint8
	WriteState    uint8
	WriteLatch    uint8
	RWMode        uint8
	Mode          uint8
	BCD           uint8
	Gate          uint8
	CountLoadTime int64
}

// PITState is struct kvm_pit_state2, KVM API 4.72.
type PITState struct {
	Channels [3]PITChannelState
	Flags    uint32
	_        [9]uint32
}

// LAPICState is struct kvm_lapic_state: the APIC register page, KVM API 4.57.
type LAPICState struct {
	Regs [0x400]byte
}

// VCPU event validity flags, KVM API 4.31.
const (
	VCPUEventNMIPending  = 1 << 0
	VCPUEventSIPIVector  = 1 << 1
	VCPUEventShadow      = 1 << 2
	VCPUEventSMM         = 1 << 3
	VCPUEventPayload     = 1 << 4
	VCPUEventTripleFault = 1 << 5
)

// VCPUEvents is struct kvm_vcpu_events, KVM API 4.31: exceptions, interrupts and NMIs pending or under delivery.
type VCPUEvents struct {
	Exception struct {
		Injected     uint8
		Nr           uint8
		HasErrorCode uint8
		Pending      uint8
		ErrorCode    uint32
	}
	Interrupt struct {
		Injected uint8
		Nr       uint8
		Soft     uint8
		Shadow   uint8
	}
	NMI struct {
		Injected uint8
		Pending  uint8
		Masked   uint8
		_        uint8
	}
	SIPIVector uint32
	Flags      uint32
	SMI        struct {
		SMM          uint8
		Pending      uint8
		SMMInsideNMI uint8
		LatchedInit  uint8
	}
	TripleFaultPending  uint8
	_                   [26]byte
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

// DebugRegs is struct kvm_debugregs, KVM API 4.33.
type DebugRegs struct {
	DB    [4]uint64
	DR6   uint64
	DR7   uint64
	Flags uint64
	_     [9]uint64
}

// XCR is struct kvm_xcr.
type XCR struct {
	XCR   uint32
	_     uint32
	Value uint64
}

// XCRs is struct kvm_xcrs, KVM API 4.44.
type XCRs struct {
	NrXCRs uint32
	Flags  uint32
	XCRs   [16]XCR
	_      [16]uint64
}

// GuestDebug is struct kvm_guest_debug, KVM API 4.87.
type GuestDebug struct {
	Control  uint32
	_        uint32
	DebugReg [8]uint64
}
