package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/guestmem"
)

func TestLoadELF(t *testing.T) {
	mem := testMemory(8)
	initrd := bytes.Repeat([]byte("initrd"), 1000)
	cfg := withInitrd(testConfig(testELF()), initrd)
	cfg.RNGSeed = []byte("0123456789abcdef0123456789abcdef")
	e, err := Load(mem, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if e.Protocol != Linux64 || e.RIP != 0x20_0010 || e.RSI != uint64(zeroPageAddr) {
		t.Errorf("entry %v at %#x with %#x, want linux64 at 0x200010 with the zero page", e.Protocol, e.RIP, e.RSI)
	}
	want := []struct {
		name string
		addr guestmem.Addr
		data string
	}{
		{"text", 0x20_0000, "text of the kernel: a few instructions\x00"},
		{"data and bss", 0x20_2000, "data of the kernel\x00\x00"},
		{"command line", cmdlineAddr, "console=ttyS0\x00"},
		{"reset code", 0xf_fff0, "\xb0\xfe\xe6\x64\xf4"},
	}
	for _, w := range want {
		if got := readMem(t, mem, w.addr, len(w.data)); string(got) != w.data {
			t.Errorf("%s: %q, want %q", w.name, got, w.data)
		}
	}
	zp := readMem(t, mem, zeroPageAddr, zeroPageSize)
	le := binary.LittleEndian
	at, size := le.Uint32(zp[hdrRamdiskImage:]), le.Uint32(zp[hdrRamdiskSize:])
	if at%guestmem.PageSize != 0 || uint64(at)+uint64(len(initrd)) > 8<<20 || uint64(at) < 8<<20-3*guestmem.PageSize {
		t.Errorf("initrd at %#x: want a page close to the end of 8 MiB", at)
	}
	if got := readMem(t, mem, guestmem.Addr(at), int(size)); !bytes.Equal(got, initrd) {
		t.Error("the initrd has other bytes in memory")
	}
	seed := readMem(t, mem, guestmem.Addr(le.Uint64(zp[hdrSetupData:])), 16+32)
	if le.Uint64(seed) != 0 || le.Uint32(seed[8:]) != 9 || le.Uint32(seed[12:]) != 32 || !bytes.Equal(seed[16:], cfg.RNGSeed) {
		t.Errorf("setup_data % x", seed)
	}
}

func TestLoadBzImage(t *testing.T) {
	z := goodBz()
	mem := testMemory(8)
	e, err := Load(mem, testConfig(z.build()))
	if err != nil {
		t.Fatal(err)
	}
	if e.Protocol != Linux64 || e.RIP != 0x20_0200 {
		t.Errorf("entry %v at %#x, want linux64 at 0x200200", e.Protocol, e.RIP)
	}
	if got := readMem(t, mem, 0x20_0000, len(z.code)); !bytes.Equal(got, z.code) {
		t.Error("the code has other bytes in memory")
	}
	zp := readMem(t, mem, zeroPageAddr, zeroPageSize)
	le := binary.LittleEndian
	if got := le.Uint32(zp[hdrInitSize:]); got != z.initSize {
		t.Errorf("init_size %#x was not taken over", got)
	}
	if zp[hdrTypeOfLoader] != loaderOther || zp[hdrLoadFlags] != loadedHigh || le.Uint32(zp[hdrCode32Start:]) != 0x20_0000 {
		t.Errorf("type_of_loader %#x, load_flags %#x, code32_start %#x", zp[hdrTypeOfLoader], zp[hdrLoadFlags], le.Uint32(zp[hdrCode32Start:]))
	}
	for i := hdrMagic + int(z.headerLength); i < zpE820Table; i++ {
		if zp[i] != 0 {
			t.Fatalf("byte %#x behind the setup header is %#x", i, zp[i])
		}
	}
}

func TestBzImagePlaces(t *testing.T) {
	low := goodBz()
	low.preferred = 0
	low.alignment = 0x20_0000
	short := goodBz()
	short.cut = 7 // within the last paragraph
	four := goodBz()
	four.sects = 4
	zero := four
	zero.patched = func(b []byte) { b[hdrSetupSects] = 0 } // means 4
	long := goodBz()
	long.headerLength = 0xff // beyond its place in the zero page
	for _, c := range []struct {
		name string
		z    testBz
		rip  uint64
	}{{"low", low, 0x20_0200}, {"short", short, 0x20_0200}, {"zero sectors", zero, 0x20_0200}, {"long header", long, 0x20_0200}} {
		mem := testMemory(4)
		e, err := Load(mem, testConfig(c.z.build()))
		if err != nil || e.RIP != c.rip {
			t.Errorf("%s: %+v, %v; want entry %#x", c.name, e, err, c.rip)
			continue
		}
		if got := readMem(t, mem, guestmem.Addr(c.rip-entry64), 16); !bytes.Equal(got, c.z.code[:16]) {
			t.Errorf("%s: code starts with %q", c.name, got)
		}
	}
}

func TestLoadPVH(t *testing.T) {
	mem := testMemory(8)
	cfg := withInitrd(testConfig(testELF()), []byte("initrd"))
	cfg.Protocol, cfg.Firmware = PVH, ACPI
	e, err := Load(mem, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if e.Protocol != PVH || e.RIP != 0x20_0004 || e.CR0&cr0PG != 0 || e.CS.L != 0 || e.CS.DB != 1 {
		t.Errorf("entry %+v: want 32-bit protected mode without paging at 0x200004", e)
	}
	le := binary.LittleEndian
	info := readMem(t, mem, guestmem.Addr(e.RBX), startInfoSize)
	if le.Uint32(info) != startInfoMagic || le.Uint32(info[4:]) != 1 || le.Uint32(info[12:]) != 1 {
		t.Fatalf("start_info % x", info)
	}
	mod := readMem(t, mem, guestmem.Addr(le.Uint64(info[16:])), moduleSize)
	if got := readMem(t, mem, guestmem.Addr(le.Uint64(mod)), int(le.Uint64(mod[8:]))); string(got) != "initrd" {
		t.Errorf("module %q", got)
	}
	if got := readMem(t, mem, guestmem.Addr(le.Uint64(info[24:])), 14); string(got) != "console=ttyS0\x00" {
		t.Errorf("command line %q", got)
	}
	if got := readMem(t, mem, guestmem.Addr(le.Uint64(info[32:])), 8); string(got) != "RSD PTR " {
		t.Errorf("RSDP %q", got)
	}
	n := int(le.Uint32(info[48:]))
	m := readMem(t, mem, guestmem.Addr(le.Uint64(info[40:])), n*memMapEntrySize)
	var got []E820Entry
	for ; len(m) > 0; m = m[memMapEntrySize:] {
		got = append(got, E820Entry{guestmem.Addr(le.Uint64(m)), le.Uint64(m[8:]), E820Type(le.Uint32(m[16:]))})
	}
	if diff := cmp.Diff(MemoryMap(mem.Regions()), got); diff != "" {
		t.Errorf("memory map (-want +got):\n%s", diff)
	}
}

// Without a 64-bit entry, PVH is taken by itself; a note of 8 bytes with 8-byte padding is understood, too.
func TestPVHByDefault(t *testing.T) {
	n := append(note("GNU\x00", 5, []byte("123456789"), 8),
		note("Xen\x00", xenPhys32Entry, binary.LittleEndian.AppendUint64(nil, 0x20_0008), 8)...)
	kernel := buildELF(0, load(0x20_0000, "text of the kernel"), testProg{kind: elfPTNote, data: n, align: 8})
	e, err := Load(testMemory(4), testConfig(kernel))
	if err != nil || e.Protocol != PVH || e.RIP != 0x20_0008 {
		t.Errorf("%+v, %v; want PVH at 0x200008", e, err)
	}
}

// A kernel that reaches beyond the first GiB is mapped wholly.
func TestPageTables(t *testing.T) {
	for _, end := range []guestmem.Addr{0x20_0000, 1 << 30, 1<<30 + 1, 3 << 30} {
		mem := testMemory(2)
		l := &loader{mem: mem, image: &image{end: end}}
		if err := l.writePageTables(); err != nil {
			t.Fatal(err)
		}
		for a := guestmem.Addr(0); a < end; a += hugePage / 2 {
			if got, ok := translate(t, mem, a); !ok || got != a {
				t.Fatalf("kernel up to %#x: %#x maps to %#x, %v", uint64(end), uint64(a), uint64(got), ok)
			}
		}
		if _, ok := translate(t, mem, alignUp(end, gib)); ok {
			t.Errorf("kernel up to %#x: more is mapped than needed", uint64(end))
		}
	}
}

// translate walks the page tables as a CPU does.
func translate(t *testing.T, mem *guestmem.Memory, a guestmem.Addr) (guestmem.Addr, bool) {
	t.Helper()
	table := pml4Addr
	for shift := 39; ; shift -= 9 {
		entry := binary.LittleEndian.Uint64(readMem(t, mem, table+8*(a>>shift&511), 8))
		if entry&ptePresent == 0 {
			return 0, false
		}
		if shift == 21 || entry&pteLarge != 0 {
			page := guestmem.Addr(1)<<shift - 1
			return guestmem.Addr(entry)&^0xfff&^page | a&page, true
		}
		table = guestmem.Addr(entry) &^ 0xfff
	}
}

// The descriptors in memory say the same as the hidden parts.
func TestGDT(t *testing.T) {
	mem := testMemory(4)
	e, err := Load(mem, testConfig(testELF()))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		sel  uint16
		desc uint64
	}{
		"CS": {selCode, 0x00af9b000000ffff}, "DS": {selData, 0x00cf93000000ffff}, "TR": {selTSS, 0x00008b0005800067},
	} {
		if got := binary.LittleEndian.Uint64(readMem(t, mem, guestmem.Addr(e.GDT.Base)+guestmem.Addr(want.sel), 8)); got != want.desc {
			t.Errorf("%s: descriptor %#016x, want %#016x", name, got, want.desc)
		}
	}
}

func TestCmdlineLimits(t *testing.T) {
	small := goodBz()
	small.cmdlineSize = 20
	for _, c := range []struct {
		name    string
		kernel  []byte
		cmdline string
		want    string
	}{
		{"ELF, as long as possible", testELF(), strings.Repeat("x", 2047), ""},
		{"ELF, too long", testELF(), strings.Repeat("x", 2048), "command line of 2048 bytes: this kernel takes at most 2047"},
		{"bzImage, as long as possible", small.build(), strings.Repeat("x", 20), ""},
		{"bzImage, too long", small.build(), strings.Repeat("x", 21), "command line of 21 bytes: this kernel takes at most 20"},
		{"NUL", testELF(), "a\x00b", "NUL byte at offset 1"},
	} {
		cfg := testConfig(c.kernel)
		cfg.Cmdline = c.cmdline
		_, err := Load(testMemory(4), cfg)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestMMIOCmdline(t *testing.T) {
	got := MMIOCmdline([]MMIODevice{{MMIOBase, MMIOSlotSize, 5}, {MMIOBase + 0x1000, 2 << 20, 6}, {MMIOBase + 0x2000, 0x200, 7}})
	want := "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=2M@0xd0001000:6 virtio_mmio.device=512@0xd0002000:7"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }

func TestReadErrors(t *testing.T) {
	broken := errors.New("the disk is gone")
	cfg := testConfig(testELF())
	cfg.Kernel = brokenReader{broken}
	if _, err := Load(testMemory(4), cfg); !errors.Is(err, broken) {
		t.Errorf("kernel: %v", err)
	}
	cfg = testConfig(testELF())
	cfg.Initrd, cfg.InitrdSize = brokenReader{io.EOF}, 100
	if _, err := Load(testMemory(4), cfg); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("initrd: %v", err)
	}
}
