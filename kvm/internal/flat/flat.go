// Package flat gives a vCPU the simplest state in which a few bytes of code run: flat segments from 0 to 4 GiB, no
// interrupts, and for 64-bit code page tables that map the first GiB one to one.
package flat

import (
	"encoding/binary"

	"github.com/govmm/govmm/kvm"
)

// Control register and EFER bits that the modes need.
const (
	cr0PE    = 1 << 0
	cr0ET    = 1 << 4
	cr0NE    = 1 << 5
	cr0PG    = 1 << 31
	cr4PAE   = 1 << 5
	eferLME  = 1 << 8
	eferLMA  = 1 << 10
	pageRW   = 1<<0 | 1<<1 // present, writable
	pageHuge = 1 << 7
)

// TablesSize is the length of the page tables that Long writes, in bytes.
const TablesSize = 3 * 4096

// Real puts the vCPU in real mode with all segments at 0.
func Real(s *kvm.Sregs) {
	for _, seg := range []*kvm.Segment{&s.CS, &s.DS, &s.ES, &s.FS, &s.GS, &s.SS} {
		seg.Base, seg.Selector = 0, 0
	}
}

// Protected puts the vCPU in 32-bit protected mode without paging.
func Protected(s *kvm.Sregs) {
	s.CR0 = cr0PE | cr0ET | cr0NE
	s.CR4, s.EFER = 0, 0
	s.CS = segment(0x08, 0xb)
	s.CS.DB = 1
	data := segment(0x10, 0x3)
	data.DB = 1
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	system(s)
}

// Long puts the vCPU in 64-bit mode at privilege level 0, with page tables at guest-physical address tables, which must
// be a multiple of 4096; mem is guest memory from address 0.
func Long(s *kvm.Sregs, mem []byte, tables uint64) {
	binary.LittleEndian.PutUint64(mem[tables:], tables+0x1000|pageRW)
	binary.LittleEndian.PutUint64(mem[tables+0x1000:], tables+0x2000|pageRW)
	for i := range uint64(512) {
		binary.LittleEndian.PutUint64(mem[tables+0x2000+i*8:], i<<21|pageRW|pageHuge)
	}
	Protected(s)
	s.CS.DB, s.CS.L = 0, 1
	s.CR3 = tables
	s.CR4 = cr4PAE
	s.EFER = eferLME | eferLMA
	s.CR0 |= cr0PG
}

func segment(selector uint16, typ uint8) kvm.Segment {
	return kvm.Segment{Limit: 0xffffffff, Selector: selector, Type: typ, Present: 1, S: 1, G: 1}
}

// system sets what code without interrupts never uses, but VM entry on Intel checks: a busy TSS and no LDT.
func system(s *kvm.Sregs) {
	s.TR = kvm.Segment{Limit: 0x67, Selector: 0x18, Type: 0xb, Present: 1}
	s.LDT = kvm.Segment{Unusable: 1}
	s.GDT, s.IDT = kvm.DTable{}, kvm.DTable{}
}
