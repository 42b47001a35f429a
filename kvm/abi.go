package kvm

// The structures below are the kernel's, byte for byte; a test holds their sizes and offsets against <linux/kvm.h>.

type enableCapArg struct {
	Cap   uint32
	Flags uint32
	Args  [4]uint64
	_     [64]byte
}

type userMemoryRegion struct {
	Slot          uint32
	Flags         uint32
	GuestPhysAddr uint64
	MemorySize    uint64
	UserspaceAddr uint64
}

type dirtyLog struct {
	Slot   uint32
	_      uint32
	Bitmap uint64
}

type clearDirtyLog struct {
	Slot      uint32
	NumPages  uint32
	FirstPage uint64
	Bitmap    uint64
}

type irqLevel struct {
	IRQ   uint32
	Level uint32
}

const (
	irqfdDeassign = 1 << 0
	irqfdResample = 1 << 1
)

type irqfd struct {
	FD         uint32
	GSI        uint32
	Flags      uint32
	ResampleFD uint32
	_          [16]byte
}

const (
	ioeventfdDatamatch = 1 << 0
	ioeventfdPIO       = 1 << 1
	ioeventfdDeassign  = 1 << 2
)

type ioeventfd struct {
	Datamatch uint64
	Addr      uint64
	Len       uint32
	FD        int32
	Flags     uint32
	_         [36]byte
}

type msi struct {
	AddressLo uint32
	AddressHi uint32
	Data      uint32
	Flags     uint32
	DevID     uint32
	_         [12]byte
}

type deviceAttr struct {
	Flags uint32
	Group uint32
	Attr  uint64
	Addr  uint64
}

// DirtyPage is what a dirty ring says of a page that was written.
type DirtyPage struct {
	// Slot is the memory slot.
	Slot uint32
	// Page is the page's number in it.
	Page uint64
}

// dirtyGFN is struct kvm_dirty_gfn, an entry of a dirty ring. Flags says whose the entry is.
type dirtyGFN struct {
	Flags  uint32
	Slot   uint32
	Offset uint64
}

const (
	dirtyGFNDirty = 1 << 0
	dirtyGFNReset = 1 << 1
)

// Clock flags, KVM API 4.29.
const (
	ClockTSCStable = 1 << 1
	ClockRealtime  = 1 << 2
	ClockHostTSC   = 1 << 3
)

// ClockData is struct kvm_clock_data: the guest's kvm-clock and, if Flags say so, the host's clocks at that instant.
type ClockData struct {
	// Clock is in nanoseconds.
	Clock uint64
	Flags uint32
	_     uint32
	// Realtime is the host's CLOCK_REALTIME in nanoseconds.
	Realtime uint64
	HostTSC  uint64
	_        [4]uint32
}

// MPState is struct kvm_mp_state: what a vCPU waits for, KVM API 4.38.
type MPState uint32

// The states that x86 has.
const (
	MPStateRunnable      MPState = 0
	MPStateUninitialized MPState = 1
	MPStateInitReceived  MPState = 2
	MPStateHalted        MPState = 3
	MPStateSIPIReceived  MPState = 4
)

// Translation is struct kvm_translation, KVM API 4.15.
type Translation struct {
	LinearAddress   uint64
	PhysicalAddress uint64
	Valid           uint8
	Writeable       uint8
	Usermode        uint8
	_               [5]byte
}

// Guest debug control bits, KVM API 4.87.
const (
	GuestDebugEnable     = 1 << 0
	GuestDebugSingleStep = 1 << 1
	GuestDebugUseSWBP    = 1 << 16
	GuestDebugUseHWBP    = 1 << 17
)
