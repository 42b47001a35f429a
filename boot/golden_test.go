package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/testhost/need"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// golden compares the lines of b's hex dump, without those that are all zero, with a file in testdata.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	var lines []string
	for _, line := range strings.SplitAfter(hex.Dump(b), "\n") {
		if len(line) > 60 && strings.Trim(line[10:60], "0 ") != "" {
			lines = append(lines, line)
		}
	}
	got := strings.Join(lines, "")
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

func testDevices(n int) []MMIODevice {
	var devs []MMIODevice
	for i := range n {
		devs = append(devs, MMIODevice{MMIOBase + guestmem.Addr(i)*MMIOSlotSize, MMIOSlotSize, FirstGSI + uint32(i)})
	}
	return devs
}

func TestGoldenZeroPage(t *testing.T) {
	for _, c := range []struct {
		name   string
		kernel []byte
	}{{"zeropage-elf", testELF()}, {"zeropage-bzimage", goodBz().build()}} {
		mem := testMemory(8)
		cfg := withInitrd(testConfig(c.kernel), []byte("initrd"))
		cfg.RNGSeed, cfg.Firmware = []byte("seed"), ACPI
		if _, err := Load(mem, cfg); err != nil {
			t.Fatal(err)
		}
		golden(t, c.name, readMem(t, mem, zeroPageAddr, zeroPageSize))
	}
}

func TestMemoryMap(t *testing.T) {
	low := []E820Entry{
		{0, 0x9d000, E820RAM},
		{0x9d000, 0x3000, E820Reserved},
		{0xe0000, 0x20000, E820Reserved},
	}
	kvm := E820Entry{0xfffbc000, 0x44000, E820Reserved}
	for _, c := range []struct {
		size uint64
		want []E820Entry
	}{
		{128 << 20, append(slices.Clone(low), E820Entry{0x100000, 127 << 20, E820RAM}, kvm)},
		{3 << 30, append(slices.Clone(low), E820Entry{0x100000, 3<<30 - 1<<20, E820RAM}, kvm)},
		{8 << 30, append(slices.Clone(low), E820Entry{0x100000, 3<<30 - 1<<20, E820RAM}, kvm, E820Entry{4 << 30, 5 << 30, E820RAM})},
	} {
		if diff := cmp.Diff(c.want, MemoryMap(Layout(c.size))); diff != "" {
			t.Errorf("%d MiB (-want +got):\n%s", c.size>>20, diff)
		}
	}
}

// Whatever the size, the layout has that many bytes, none in the hole, and the map is sorted without overlaps.
func TestLayout(t *testing.T) {
	for _, size := range []uint64{8 << 20, 128 << 20, 3<<30 - 4096, 3 << 30, 3<<30 + 4096, 4 << 30, 1 << 40} {
		var sum uint64
		for _, r := range Layout(size) {
			sum += r.Size
			if r.Base < HoleEnd && r.End() > HoleStart {
				t.Errorf("%#x: region %#x+%#x reaches into the hole", size, uint64(r.Base), r.Size)
			}
		}
		if sum != size {
			t.Errorf("%#x: the regions have %#x bytes", size, sum)
		}
		var last guestmem.Addr
		for _, e := range MemoryMap(Layout(size)) {
			if e.Addr < last || e.Size == 0 {
				t.Errorf("%#x: entry %#x+%#x after %#x", size, uint64(e.Addr), e.Size, uint64(last))
			}
			last = e.Addr + guestmem.Addr(e.Size)
		}
	}
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

func TestGoldenMPTable(t *testing.T) {
	golden(t, "mptable", mpTable(2, testDevices(3)))
	golden(t, "mpfloat", mpFloatingPointer(ebdaAddr))
}

// Reads the table back as the specification has it, at the sizes that matter, from where the guest looks.
func TestMPTable(t *testing.T) {
	le := binary.LittleEndian
	for _, cpus := range []int{1, 2, 64, maxCPUs} {
		mem := testMemory(4)
		cfg := testConfig(testELF())
		cfg.CPUs, cfg.Devices = cpus, testDevices(MaxDevices)
		if _, err := Load(mem, cfg); err != nil {
			t.Fatal(err)
		}
		ptr := readMem(t, mem, 0x9fc00, 16)
		if string(ptr[:4]) != "_MP_" || sum(ptr) != 0 {
			t.Fatalf("floating pointer % x", ptr)
		}
		at := guestmem.Addr(le.Uint32(ptr[4:]))
		length := int(le.Uint16(readMem(t, mem, at+4, 2)))
		table := readMem(t, mem, at, length)
		if string(table[:4]) != "PCMP" || sum(table) != 0 {
			t.Errorf("%d CPUs: signature %q, sum %#x", cpus, table[:4], sum(table))
		}
		if at+guestmem.Addr(length) > mpFloatAddr {
			t.Errorf("%d CPUs: the table of %d bytes runs into its pointer", cpus, length)
		}
		counts := map[byte]int{}
		irqs := map[byte]byte{}
		for b := table[mpHeaderSize:]; len(b) > 0; {
			counts[b[0]]++
			switch b[0] {
			case mpProcessor:
				b = b[20:]
				continue
			case mpIOInt:
				irqs[b[5]] = b[7]
			}
			b = b[8:]
		}
		want := map[byte]int{mpProcessor: cpus, mpBus: 1, mpIOAPIC: 1, mpIOInt: 1 + MaxDevices, mpLocalInt: 2}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("%d CPUs: entries by type (-want +got):\n%s", cpus, diff)
		}
		for irq, pin := range irqs {
			if irq != pin {
				t.Errorf("interrupt %d is on pin %d", irq, pin)
			}
		}
	}
}

func TestGoldenACPI(t *testing.T) {
	golden(t, "acpi", acpiTables(biosAddr, 2, testDevices(2)))
}

// acpiTree follows the pointers from the RSDP and returns every table by its signature.
func acpiTree(t *testing.T, mem *guestmem.Memory) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	rsdp := readMem(t, mem, biosAddr, rsdpSize)
	if string(rsdp[:8]) != "RSD PTR " || sum(rsdp[:20]) != 0 || sum(rsdp) != 0 {
		t.Fatalf("RSDP % x", rsdp)
	}
	tables := map[string][]byte{}
	read := func(at uint64) []byte {
		head := readMem(t, mem, guestmem.Addr(at), acpiHeaderSize)
		b := readMem(t, mem, guestmem.Addr(at), int(le.Uint32(head[4:])))
		if sum(b) != 0 || at+uint64(len(b)) > uint64(resetVector) || at < uint64(biosAddr) {
			t.Errorf("%s at %#x+%#x: sum %#x", b[:4], at, len(b), sum(b))
		}
		tables[string(b[:4])] = b
		return b
	}
	for b := read(le.Uint64(rsdp[24:]))[acpiHeaderSize:]; len(b) > 0; b = b[8:] {
		if table := read(le.Uint64(b)); string(table[:4]) == "FACP" {
			read(le.Uint64(table[140:]))
		}
	}
	return tables
}

func TestACPI(t *testing.T) {
	for _, cpus := range []int{1, 4, maxCPUs} {
		mem := testMemory(4)
		cfg := testConfig(testELF())
		cfg.CPUs, cfg.Firmware, cfg.Devices = cpus, ACPI, testDevices(MaxDevices)
		if _, err := Load(mem, cfg); err != nil {
			t.Fatal(err)
		}
		tables := acpiTree(t, mem)
		for _, name := range []string{"XSDT", "FACP", "APIC", "DSDT"} {
			if tables[name] == nil {
				t.Fatalf("no %s", name)
			}
		}
		lapics := 0
		for b := tables["APIC"][madtHeaderSize:]; len(b) > 0; b = b[b[1]:] {
			if b[0] == madtLAPIC {
				if int(b[3]) != lapics || b[4] != 1 {
					t.Errorf("local APIC % x", b[:8])
				}
				lapics++
			}
		}
		if lapics != cpus {
			t.Errorf("%d local APICs, want %d", lapics, cpus)
		}
		if n := bytes.Count(tables["DSDT"], []byte("LNRO0005")); n != MaxDevices {
			t.Errorf("%d LNRO0005 devices, want %d", n, MaxDevices)
		}
	}
}

// ACPICA's own disassembler and compiler must understand the tables.
func TestACPIByIASL(t *testing.T) {
	iasl := need.Program(t, "iasl", "acpica-tools")
	mem := testMemory(4)
	cfg := testConfig(testELF())
	cfg.CPUs, cfg.Firmware, cfg.Devices = 2, ACPI, testDevices(MaxDevices)
	if _, err := Load(mem, cfg); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, table := range acpiTree(t, mem) {
		aml := filepath.Join(dir, name+".aml")
		if err := os.WriteFile(aml, table, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(iasl, "-d", aml).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("Error")) || bytes.Contains(out, []byte("Warning")) {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name+".dsl"))
		if err != nil {
			t.Fatal(err)
		}
		checkDisassembly(t, name, string(text))
		if name != "DSDT" {
			continue
		}
		if out, err := exec.Command(iasl, "-p", filepath.Join(dir, "again"), filepath.Join(dir, name+".dsl")).CombinedOutput(); err != nil ||
			!bytes.Contains(out, []byte("0 Errors, 0 Warnings")) {
			t.Errorf("%s does not compile again: %v\n%s", name, err, out)
		}
	}
}

func checkDisassembly(t *testing.T, name, text string) {
	t.Helper()
	want := map[string][]string{
		"DSDT": {
			`EisaId ("PNP0501")`, `Name (_HID, "LNRO0005")`, "0xD0012000,", "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive",
			"0x00000017,", `Name (_S5, Package (0x04)`, fmt.Sprintf("Device (VR%02d)", MaxDevices-1),
		},
		"FACP": {"Hardware Reduced (V5) : 1", "8042 Present on ports 60/64 (V2) : 0", "CMOS RTC Not Present (V5) : 1",
			"VGA Not Present (V4) : 1", "Reset Register Supported (V2) : 1", "Value to cause reset : FE", "Address : 0000000000000064",
			"Address : 0000000000000600"},
		"APIC": {"Local Apic ID : 01", "I/O Apic ID : 02", "Address : FEC00000"},
	}
	for _, w := range want[name] {
		if !strings.Contains(text, w) {
			t.Errorf("%s: the disassembly has no %q:\n%s", name, w, text)
		}
	}
}
