package boot

import (
	"encoding/binary"

	"github.com/govmm/govmm/guestmem"
)

// Segment is a segment register with its hidden part, in the fields of a descriptor (Intel SDM vol. 3 §3.4.5). Limit
// is in bytes, G only repeats how the descriptor says it.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8
	S        uint8 // 1: code or data, 0: system
	DPL      uint8
	Present  uint8
	AVL      uint8
	L        uint8 // 1: 64-bit code
	DB       uint8
	G        uint8
	Unusable uint8
}

// Table is GDTR or IDTR.
type Table struct {
	Base  uint64
	Limit uint16
}

// Entry is the state in which the first CPU enters the kernel. Registers that it does not name are zero.
type Entry struct {
	Protocol           Protocol
	RIP, RSP, RSI, RBX uint64
	RFLAGS             uint64
	CR0, CR3, CR4      uint64
	EFER               uint64
	CS, DS, ES, FS, GS Segment
	SS, TR, LDT        Segment
	GDT, IDT           Table
}

// Bits of the control registers (Intel SDM vol. 3 §2.5) and of the flags.
const (
	cr0PE    = 1 << 0
	cr0ET    = 1 << 4
	cr0NE    = 1 << 5
	cr0PG    = 1 << 31
	cr4PAE   = 1 << 5
	eferLME  = 1 << 8
	eferLMA  = 1 << 10
	flagsOne = 1 << 1 // always set

	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteLarge    = 1 << 7

	gib      = 1 << 30
	hugePage = 2 << 20
)

// The selectors are those that the boot protocol demands: __BOOT_CS and __BOOT_DS.
const (
	selCode = 0x10
	selData = 0x18
	selTSS  = 0x20 // two entries: a 64-bit TSS descriptor has 16 bytes
	gdtSize = 0x30

	typeCode = 0xb // execute/read, accessed
	typeData = 0x3 // read/write, accessed
	typeTSS  = 0xb // busy TSS: what VM entry demands of TR (Intel SDM vol. 3 §26.3.1.2)
	typeLDT  = 0x2
	tssLimit = 0x67
)

func flatCode(long bool) Segment {
	s := Segment{Limit: 0xffff_ffff, Selector: selCode, Type: typeCode, S: 1, Present: 1, G: 1}
	if long {
		s.L = 1
	} else {
		s.DB = 1
	}
	return s
}

func flatData() Segment {
	return Segment{Limit: 0xffff_ffff, Selector: selData, Type: typeData, S: 1, Present: 1, DB: 1, G: 1}
}

// newEntry fills what both protocols share.
func newEntry(p Protocol, rip guestmem.Addr) *Entry {
	data := flatData()
	return &Entry{
		Protocol: p,
		RIP:      uint64(rip), RSP: uint64(bootStack), RFLAGS: flagsOne,
		CR0: cr0PE | cr0ET | cr0NE,
		CS:  flatCode(p == Linux64),
		DS:  data, ES: data, FS: data, GS: data, SS: data,
		TR:  Segment{Base: uint64(tssAddr), Limit: tssLimit, Selector: selTSS, Type: typeTSS, Present: 1},
		LDT: Segment{Type: typeLDT, Unusable: 1},
		GDT: Table{Base: uint64(gdtAddr), Limit: gdtSize - 1},
	}
}

// enterLinux64 is the 64-bit boot protocol (boot.rst, "64-bit Boot Protocol"): long mode, interrupts off, the zero page
// in RSI, kernel and zero page and command line identity-mapped.
func (l *loader) enterLinux64() (*Entry, error) {
	e := newEntry(Linux64, l.image.entry)
	e.RSI = uint64(zeroPageAddr)
	e.CR0 |= cr0PG
	e.CR3 = uint64(pml4Addr)
	e.CR4 = cr4PAE
	e.EFER = eferLME | eferLMA
	if err := l.writeZeroPage(); err != nil {
		return nil, err
	}
	if err := l.writeGDT(e); err != nil {
		return nil, err
	}
	return e, l.writePageTables()
}

// writePageTables maps as many GiB from 0 as the kernel reaches into, in pages of 2 MiB: pages of 1 GiB are a feature
// that a CPU model may lack. The kernel replaces them with its own before it looks further.
func (l *loader) writePageTables() error {
	n := (uint64(l.image.end) + gib - 1) / gib
	pml4, err := l.mem.Slice(pml4Addr, guestmem.PageSize)
	if err != nil {
		return err
	}
	pdpt, err := l.mem.Slice(pdptAddr, guestmem.PageSize)
	if err != nil {
		return err
	}
	pd, err := l.mem.Slice(pdAddr, uint32(n)*guestmem.PageSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint64(pml4, uint64(pdptAddr)|ptePresent|pteWritable)
	for i := range n {
		le.PutUint64(pdpt[8*i:], uint64(pdAddr)+i*guestmem.PageSize|ptePresent|pteWritable)
	}
	for i := 0; i < len(pd); i += 8 {
		le.PutUint64(pd[i:], uint64(i/8)*hugePage|ptePresent|pteWritable|pteLarge)
	}
	return nil
}

// writeGDT writes descriptors that agree with the hidden parts, for a kernel that reloads a segment register before it
// has a GDT of its own.
func (l *loader) writeGDT(e *Entry) error {
	b, err := l.mem.Slice(gdtAddr, gdtSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint64(b[selCode:], descriptor(e.CS))
	le.PutUint64(b[selData:], descriptor(e.DS))
	le.PutUint64(b[selTSS:], descriptor(e.TR))
	le.PutUint64(b[selTSS+8:], e.TR.Base>>32)
	return nil
}

// descriptor packs a segment (Intel SDM vol. 3 figure 3-8).
func descriptor(s Segment) uint64 {
	limit := uint64(s.Limit)
	if s.G != 0 {
		limit >>= 12
	}
	return limit&0xffff | limit>>16&0xf<<48 |
		s.Base&0xff_ffff<<16 | s.Base>>24&0xff<<56 |
		uint64(s.Type)<<40 | uint64(s.S)<<44 | uint64(s.DPL)<<45 | uint64(s.Present)<<47 |
		uint64(s.AVL)<<52 | uint64(s.L)<<53 | uint64(s.DB)<<54 | uint64(s.G)<<55
}
