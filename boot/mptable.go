package boot

import (
	"encoding/binary"

	"github.com/govmm/govmm/guestmem"
)

// MP table entry types and flags (Intel MultiProcessor Specification 1.4, chapter 4).
const (
	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpIOInt     = 3
	mpLocalInt  = 4

	mpSpec14     = 4
	mpHeaderSize = 44
	mpFloatSize  = 16

	mpEnabled = 1 << 0
	mpBSP     = 1 << 1

	mpINT    = 0
	mpNMI    = 1
	mpExtINT = 3

	mpISABus = 0
	mpEdge   = 1<<2 | 1<<0 // edge-triggered, active high; "conforms to the bus" means the same on ISA

	lapicVersion  = 0x14
	ioapicVersion = 0x11
	allLAPICs     = 0xff
)

// mpFloatingPointer is what the guest searches for; it leads to the table.
func mpFloatingPointer(table guestmem.Addr) []byte {
	b := make([]byte, mpFloatSize)
	copy(b, "_MP_")
	binary.LittleEndian.PutUint32(b[4:], uint32(table))
	b[8] = mpFloatSize / 16
	b[9] = mpSpec14
	b[10] = checksum(b)
	return b
}

// mpTable describes cpus processors, one ISA bus, one IOAPIC, and the interrupts that are in use, each on the pin of
// its own number. Every further pin would cost the guest an interrupt descriptor at boot.
func mpTable(cpus int, devs []MMIODevice) []byte {
	b := make([]byte, mpHeaderSize, mpHeaderSize+20*cpus+8*(4+IOAPICPins))
	count := 0
	add := func(e ...byte) {
		b = append(b, e...)
		count++
	}
	for id := range cpus {
		flags := byte(mpEnabled)
		if id == 0 {
			flags |= mpBSP
		}
		// Signature family 6, features FPU and APIC: the guest asks CPUID for the real ones.
		add(mpProcessor, byte(id), lapicVersion, flags, 0, 6, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	add(mpBus, mpISABus, 'I', 'S', 'A', ' ', ' ', ' ')
	ioapic := byte(cpus)
	addr := binary.LittleEndian.AppendUint32(nil, uint32(IOAPICAddr))
	add(append([]byte{mpIOAPIC, ioapic, ioapicVersion, mpEnabled}, addr...)...)
	for gsi, used := range usedGSIs(devs) {
		if used {
			add(mpIOInt, mpINT, mpEdge, 0, mpISABus, byte(gsi), ioapic, byte(gsi))
		}
	}
	add(mpLocalInt, mpExtINT, 0, 0, mpISABus, 0, allLAPICs, 0)
	add(mpLocalInt, mpNMI, 0, 0, mpISABus, 0, allLAPICs, 1)

	le := binary.LittleEndian
	copy(b, "PCMP")
	le.PutUint16(b[4:], uint16(len(b)))
	b[6] = mpSpec14
	copy(b[8:], "GOVMM   ")
	copy(b[16:], "MICROVM     ")
	le.PutUint16(b[34:], uint16(count))
	le.PutUint32(b[36:], uint32(LAPICAddr))
	b[7] = checksum(b)
	return b
}

// usedGSIs says which interrupts have a source: COM1 and the devices.
func usedGSIs(devs []MMIODevice) (used [IOAPICPins]bool) {
	used[COM1GSI] = true
	for _, d := range devs {
		used[d.GSI] = true
	}
	return used
}

// checksum returns the byte that makes the sum of b zero; its place in b must hold zero.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
