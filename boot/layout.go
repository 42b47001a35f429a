package boot

import "github.com/govmm/govmm/guestmem"

// The guest's physical address space. RAM starts at 0 and has a hole below 4 GiB, in which everything that is not RAM
// lies; RAM that does not fit below the hole goes on at 4 GiB.
const (
	HoleStart guestmem.Addr = 3 << 30
	HoleEnd   guestmem.Addr = 4 << 30

	// MMIOBase is the first virtio-mmio window; windows follow each other every MMIOSlotSize bytes.
	MMIOBase guestmem.Addr = 0xd000_0000

	// IOAPICAddr and LAPICAddr are where KVM's in-kernel interrupt controllers answer.
	IOAPICAddr guestmem.Addr = 0xfec0_0000
	LAPICAddr  guestmem.Addr = 0xfee0_0000

	// IdentityMapAddr (one page) and TSSAddr (three pages) are what KVM on Intel needs for real mode without
	// unrestricted guest, KVM API 4.39 and 4.36. The memory map tells the guest that they are taken.
	IdentityMapAddr = 0xfffb_c000
	TSSAddr         = 0xfffb_d000
)

// MMIOSlotSize is the size of a virtio-mmio window in bytes.
const MMIOSlotSize = 0x1000

// Interrupts and ports of the platform.
const (
	// IOAPICPins is the number of global system interrupts: pins of KVM's only IOAPIC.
	IOAPICPins = 24
	// COM1Port and COM1GSI are the first serial port's, as on every PC.
	COM1Port = 0x3f8
	COM1GSI  = 4
	// FirstGSI is the first interrupt for virtio devices; MaxDevices of them fit below IOAPICPins. Every one is
	// edge-triggered, active high: an irqfd is a pulse.
	FirstGSI   = 5
	MaxDevices = IOAPICPins - FirstGSI
	// I8042Port is the keyboard controller's data port; its command port is 4 above.
	I8042Port = 0x60
	// PhasePort takes the bytes with which a guest under test reports its progress.
	PhasePort = 0x3f0
	// SleepPort is ACPI's sleep control register, and the next port its sleep status register: how a guest with ACPI
	// powers itself off (ACPI 6.5 §4.8.3.7).
	SleepPort = 0x600
)

// What Load writes below 1 MiB. A kernel image never lies there.
const (
	gdtAddr       guestmem.Addr = 0x500
	tssAddr       guestmem.Addr = 0x580
	bootStack     guestmem.Addr = 0x2000 // grows down
	startInfoAddr guestmem.Addr = 0x6000 // PVH start_info, module list and memory map
	zeroPageAddr  guestmem.Addr = 0x7000 // struct boot_params
	pml4Addr      guestmem.Addr = 0x9000
	pdptAddr      guestmem.Addr = 0xa000
	pdAddr        guestmem.Addr = 0xb000 // four page directories, one per GiB
	cmdlineAddr   guestmem.Addr = 0x2_0000
	setupDataAddr guestmem.Addr = 0x3_0000
	setupDataEnd  guestmem.Addr = 0x4_0000

	// The MP floating pointer lies in the last KiB below 640 KiB: the second place in which the guest looks, and
	// much cheaper to search than the BIOS area. Its table, too long for that KiB, starts at ebdaAddr.
	ebdaAddr      guestmem.Addr = 0x9_d000
	mpFloatAddr   guestmem.Addr = 0x9_fc00
	lowRAMEnd     guestmem.Addr = 0xa_0000
	biosAddr      guestmem.Addr = 0xe_0000 // ACPI's tables
	resetVector   guestmem.Addr = 0xf_fff0
	highRAM       guestmem.Addr = 0x10_0000
	kvmPagesStart               = guestmem.Addr(IdentityMapAddr)
)

// Layout returns the regions of RAM that give a guest size bytes: below the hole first, the rest from 4 GiB.
func Layout(size uint64) []guestmem.Region {
	if size <= uint64(HoleStart) {
		return []guestmem.Region{{Base: 0, Size: size}}
	}
	return []guestmem.Region{
		{Base: 0, Size: uint64(HoleStart)},
		{Base: HoleEnd, Size: size - uint64(HoleStart)},
	}
}
