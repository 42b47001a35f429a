package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/govmm/govmm/guestmem"
)

// ACPI tables (ACPI 6.5 chapter 5). The platform is hardware-reduced: no PM timer, no SCI, no fixed registers, of which
// govmm has none; the guest then needs neither the PIC nor the PIT.
const (
	acpiHeaderSize = 36
	rsdpSize       = 36
	rsdpV1Size     = 20
	fadtSize       = 276
	madtHeaderSize = acpiHeaderSize + 8
	acpiAlign      = 16

	fadtRevision = 6
	fadtMinor    = 5
	madtRevision = 5

	// FADT flags (ACPI 6.5 table 5.10).
	fadtWBINVD     = 1 << 0
	fadtPwrButton  = 1 << 4 // no fixed power button
	fadtSlpButton  = 1 << 5 // no fixed sleep button
	fadtResetReg   = 1 << 10
	fadtHWReduced  = 1 << 20
	fadtArchNoVGA  = 1 << 2 // IA-PC boot architecture flags (table 5.11); the bit for an 8042 stays clear
	fadtArchNoMSI  = 1 << 3
	fadtArchNoCMOS = 1 << 5

	gasIO   = 1
	gasByte = 1

	madtLAPIC    = 0
	madtIOAPIC   = 1
	madtLAPICNMI = 4

	// sleepTypeOff is the value of SLP_TYP that _S5 names for power-off.
	sleepTypeOff = 5
	resetValue   = 0xfe // the keyboard controller's command that pulses the reset line
)

// acpiTables returns the RSDP and all tables behind it, as they lie in memory from base.
func acpiTables(base guestmem.Addr, cpus int, devs []MMIODevice) []byte {
	out := make([]byte, rsdpSize)
	place := func(table []byte) uint64 {
		for len(out)%acpiAlign != 0 {
			out = append(out, 0)
		}
		at := uint64(base) + uint64(len(out))
		out = append(out, table...)
		return at
	}
	dsdt := place(dsdtTable(devs))
	fadt := place(fadtTable(dsdt))
	madt := place(madtTable(cpus))
	xsdt := place(xsdtTable(fadt, madt))
	copy(out, rsdpTable(xsdt))
	return out
}

// acpiTable puts a header before body and sums up.
func acpiTable(signature string, revision byte, body []byte) []byte {
	b := make([]byte, acpiHeaderSize, acpiHeaderSize+len(body))
	b = append(b, body...)
	copy(b, signature)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	b[8] = revision
	copy(b[10:], "GOVMM ")
	copy(b[16:], "MICROVM ")
	binary.LittleEndian.PutUint32(b[24:], 1)
	copy(b[28:], "GOVM")
	binary.LittleEndian.PutUint32(b[32:], 1)
	b[9] = checksum(b)
	return b
}

func rsdpTable(xsdt uint64) []byte {
	b := make([]byte, rsdpSize)
	copy(b, "RSD PTR ")
	copy(b[9:], "GOVMM ")
	b[15] = 2 // revision: ACPI 2.0 or later
	binary.LittleEndian.PutUint32(b[20:], rsdpSize)
	binary.LittleEndian.PutUint64(b[24:], xsdt)
	b[8] = checksum(b[:rsdpV1Size])
	b[32] = checksum(b)
	return b
}

func xsdtTable(tables ...uint64) []byte {
	var body []byte
	for _, t := range tables {
		body = binary.LittleEndian.AppendUint64(body, t)
	}
	return acpiTable("XSDT", 1, body)
}

// fadtTable fills the few fields that a hardware-reduced platform has. Offsets are the specification's, from the start
// of the header.
func fadtTable(dsdt uint64) []byte {
	le := binary.LittleEndian
	body := make([]byte, fadtSize-acpiHeaderSize)
	at := func(off int) []byte { return body[off-acpiHeaderSize:] }
	le.PutUint32(at(40), uint32(dsdt))
	le.PutUint16(at(109), fadtArchNoVGA|fadtArchNoMSI|fadtArchNoCMOS)
	le.PutUint32(at(112), fadtWBINVD|fadtPwrButton|fadtSlpButton|fadtResetReg|fadtHWReduced)
	putPortGAS(at(116), I8042Port+4)
	at(128)[0] = resetValue
	at(131)[0] = fadtMinor
	le.PutUint64(at(140), dsdt)
	putPortGAS(at(244), SleepPort)
	putPortGAS(at(256), SleepPort+1)
	copy(at(268), "GOVMM")
	return acpiTable("FACP", fadtRevision, body)
}

// putPortGAS writes a generic address structure (ACPI 6.5 §5.2.3.2) of a byte-wide port.
func putPortGAS(b []byte, port uint64) {
	b[0], b[1], b[2], b[3] = gasIO, 8, 0, gasByte
	binary.LittleEndian.PutUint64(b[4:], port)
}

func madtTable(cpus int) []byte {
	le := binary.LittleEndian
	body := le.AppendUint32(nil, uint32(LAPICAddr))
	body = le.AppendUint32(body, 0) // no 8259 that the guest would have to mask
	for id := range cpus {
		body = append(body, madtLAPIC, 8, byte(id), byte(id), 1, 0, 0, 0)
	}
	body = append(body, madtIOAPIC, 12, byte(cpus), 0)
	body = le.AppendUint32(body, uint32(IOAPICAddr))
	body = le.AppendUint32(body, 0)
	body = append(body, madtLAPICNMI, 6, 0xff, 0, 0, 1) // LINT1 of every CPU
	return acpiTable("APIC", madtRevision, body)
}

// dsdtTable names COM1, the virtio-mmio windows and the value for power-off. LNRO0005 is what Linux's virtio_mmio
// driver looks for.
func dsdtTable(devs []MMIODevice) []byte {
	blocks := [][]byte{
		[]byte("\\_SB_"),
		amlDeviceBlock("COM1",
			amlNamed("_HID", amlEISAID("PNP0501")),
			amlNamed("_UID", amlInteger(0)),
			amlNamed("_CRS", amlResources(resPorts(COM1Port, 8), resInterrupt(COM1GSI)))),
	}
	for i, d := range devs {
		blocks = append(blocks, amlDeviceBlock(fmt.Sprintf("VR%02d", i),
			amlNamed("_HID", amlText("LNRO0005")),
			amlNamed("_UID", amlInteger(uint32(i))),
			amlNamed("_CCA", amlInteger(1)),
			amlNamed("_CRS", amlResources(resMemory(uint32(d.Base), uint32(d.Size)), resInterrupt(d.GSI)))))
	}
	s5 := amlBlock([]byte{amlPackage}, []byte{4}, amlInteger(sleepTypeOff), amlInteger(0), amlInteger(0), amlInteger(0))
	return acpiTable("DSDT", 2, amlJoin(amlBlock([]byte{amlScope}, blocks...), amlNamed("_S5_", s5)))
}
