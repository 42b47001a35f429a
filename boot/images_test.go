package boot

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/guestmem"
)

// testProg is a program header with what it holds.
type testProg struct {
	kind    uint32
	paddr   uint64
	data    []byte
	memory  uint64 // 0: as long as data
	align   uint64
	patched func(header []byte) // changes the program header
}

// buildELF makes a small executable: headers, then the programs' data one after the other.
func buildELF(entry uint64, progs ...testProg) []byte {
	le := binary.LittleEndian
	b := make([]byte, elfHeaderSize+elfProgSize*len(progs))
	copy(b, elfMagic)
	b[4], b[5], b[6] = elfClass64, elfLSB, 1
	le.PutUint16(b[16:], elfExec)
	le.PutUint16(b[18:], elfX8664)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[54:], elfProgSize)
	le.PutUint16(b[56:], uint16(len(progs)))
	for i, p := range progs {
		h := b[elfHeaderSize+i*elfProgSize:][:elfProgSize]
		le.PutUint32(h, p.kind)
		le.PutUint64(h[8:], uint64(len(b)))
		le.PutUint64(h[24:], p.paddr)
		le.PutUint64(h[32:], uint64(len(p.data)))
		le.PutUint64(h[40:], max(p.memory, uint64(len(p.data))))
		le.PutUint64(h[48:], p.align)
		if p.patched != nil {
			p.patched(h)
		}
		b = append(b, p.data...)
	}
	return b
}

func load(paddr uint64, data string) testProg {
	return testProg{kind: elfPTLoad, paddr: paddr, data: []byte(data)}
}

// note is an ELF note, padded to align.
func note(name string, kind uint32, desc []byte, align int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	pad := func() {
		for len(b)%align != 0 {
			b = append(b, 0)
		}
	}
	b = append(b, name...)
	pad()
	b = append(b, desc...)
	pad()
	return b
}

func pvhNotes(entry uint32) testProg {
	other := note("GNU\x00", 3, []byte("12345"), 4)
	return testProg{kind: elfPTNote, data: append(other, note("Xen\x00", xenPhys32Entry,
		binary.LittleEndian.AppendUint32(nil, entry), 4)...), align: 4}
}

// testELF is a kernel with two segments, the second with BSS, and a PVH note.
func testELF() []byte {
	bss := load(0x20_2000, "data of the kernel")
	bss.memory = 0x3000
	return buildELF(0x20_0010, load(0x20_0000, "text of the kernel: a few instructions"), bss, pvhNotes(0x20_0004))
}

// testBz is what goes into a bzImage's setup header.
type testBz struct {
	version, xload     uint16
	sects              byte
	code               []byte
	preferred          uint64
	initSize           uint32
	alignment          uint32
	relocatable        byte
	cmdlineSize        uint32
	initrdMax          uint32
	patched            func(b []byte)
	cut                int
	headerLength, load byte
}

func goodBz() testBz {
	return testBz{
		version: 0x020f, xload: xlfKernel64, sects: 1, code: bytes.Repeat([]byte("protected-mode! "), 64),
		preferred: 0x20_0000, initSize: 0x4000, alignment: 0x1000, relocatable: 1, cmdlineSize: 2047, initrdMax: 0x7fff_ffff,
		headerLength: 0x6a, load: loadedHigh,
	}
}

func (z testBz) build() []byte {
	le := binary.LittleEndian
	b := make([]byte, (max(int(z.sects), 1)+1)*sectorSize)
	copy(b, "MZ")
	b[hdrSetupSects] = z.sects
	le.PutUint32(b[hdrSysSize:], uint32((len(z.code)+paragraph-1)/paragraph))
	le.PutUint16(b[hdrBootFlag:], bootFlag)
	b[hdrJump], b[hdrJump+1] = 0xeb, z.headerLength
	copy(b[hdrMagic:], setupMagic)
	le.PutUint16(b[hdrVersion:], z.version)
	b[hdrLoadFlags] = z.load | canUseHeap
	le.PutUint32(b[hdrInitrdAddrMax:], z.initrdMax)
	le.PutUint32(b[hdrAlignment:], z.alignment)
	b[hdrRelocatable] = z.relocatable
	le.PutUint16(b[hdrXLoadFlags:], z.xload)
	le.PutUint32(b[hdrCmdlineSize:], z.cmdlineSize)
	le.PutUint64(b[hdrPrefAddress:], z.preferred)
	le.PutUint32(b[hdrInitSize:], z.initSize)
	// Behind the header lies what must not reach the zero page.
	for i := hdrMagic + int(z.headerLength); i < 0x300; i++ {
		b[i] = 0xcc
	}
	b = append(b, z.code...)
	if z.patched != nil {
		z.patched(b)
	}
	return b[:len(b)-z.cut]
}

// testMemory is fresh RAM on the heap.
func testMemory(mibs int) *guestmem.Memory { return guestmem.FromBytes(0, make([]byte, mibs<<20)) }

func testConfig(kernel []byte) Config {
	return Config{Kernel: bytes.NewReader(kernel), KernelSize: int64(len(kernel)), Cmdline: "console=ttyS0", CPUs: 1}
}

func withInitrd(c Config, initrd []byte) Config {
	c.Initrd, c.InitrdSize = bytes.NewReader(initrd), int64(len(initrd))
	return c
}

func readMem(t *testing.T, m *guestmem.Memory, a guestmem.Addr, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := m.ReadAt(b, a); err != nil {
		t.Fatal(err)
	}
	return b
}
