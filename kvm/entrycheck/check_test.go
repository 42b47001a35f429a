package entrycheck

import (
	"strings"
	"testing"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/internal/flat"
)

type state struct {
	regs  kvm.Regs
	sregs kvm.Sregs
	host  Host
}

func newState() *state {
	return &state{regs: kvm.Regs{RIP: 0x1000, RFLAGS: 2}, host: Typical()}
}

func long() *state {
	s := newState()
	flat.Long(&s.sregs, make([]byte, flat.TablesSize), 0)
	return s
}

func protected() *state {
	s := newState()
	flat.Protected(&s.sregs)
	return s
}

// paePaging is protected mode with PAE paging.
func paePaging() *state {
	s := protected()
	s.sregs.CR0 |= cr0PG
	s.sregs.CR4 |= cr4PAE
	s.host.PDPTEs = &[4]uint64{0x1001, 0, 0x2000, 0x3019}
	return s
}

// reset is what KVM gives a new vCPU: real mode at 0xfffffff0.
func reset() *state {
	s := newState()
	data := kvm.Segment{Limit: 0xffff, Type: 3, Present: 1, S: 1}
	s.sregs = kvm.Sregs{DS: data, ES: data, FS: data, GS: data, SS: data, CR0: 0x60000010}
	s.sregs.CS = kvm.Segment{Base: 0xffff0000, Selector: 0xf000, Limit: 0xffff, Type: 0xb, Present: 1, S: 1}
	s.sregs.TR = kvm.Segment{Limit: 0xffff, Type: 0xb, Present: 1}
	s.sregs.LDT = kvm.Segment{Limit: 0xffff, Type: 2, Present: 1}
	s.regs.RIP = 0xfff0
	return s
}

func virtual8086() *state {
	s := protected()
	s.regs.RFLAGS |= flagVM
	seg := kvm.Segment{Base: 0x1230, Selector: 0x123, Limit: 0xffff, Type: 3, S: 1, DPL: 3, Present: 1}
	r := &s.sregs
	r.CS, r.SS, r.DS, r.ES, r.FS, r.GS = seg, seg, seg, seg, seg, seg
	return s
}

// user is 64-bit code at privilege level 3 with null data segments, on a processor that is not an unrestricted guest.
func user() *state {
	s := long()
	s.host.UnrestrictedGuest = false
	s.sregs.CS.DPL, s.sregs.CS.Selector = 3, 0x33
	s.sregs.SS.DPL, s.sregs.SS.Selector = 3, 0x2b
	for _, seg := range []*kvm.Segment{&s.sregs.DS, &s.sregs.ES, &s.sregs.FS, &s.sregs.GS} {
		*seg = kvm.Segment{Unusable: 1}
	}
	s.sregs.FS.Base, s.sregs.GS.Base = 0x7fffffffffff, 0xffff800000000000
	return s
}

var valid = map[string]func() *state{
	"long": long, "protected": protected, "PAE paging": paePaging, "reset": reset, "virtual-8086": virtual8086, "user": user,
}

func TestValid(t *testing.T) {
	for name, base := range valid {
		s := base()
		for _, err := range Check(&s.regs, &s.sregs, s.host) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBrokenRules breaks one rule at a time and wants exactly that one reported.
func TestBrokenRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		base   func() *state
		change func(*state)
		want   string // section and field
	}{
		// Control registers.
		{"CR0 fixed to 1", long, func(s *state) { s.host.CR0Fixed0 |= 1 << 9 }, "SDM 26.3.1.1: CR0: bits 0x200 must be 1"},
		{"CR0 fixed to 0", long, func(s *state) { s.sregs.CR0 |= 1 << 32 }, "SDM 26.3.1.1: CR0: bits 0x100000000 must be 0"},
		{"no unrestricted guest", protected, func(s *state) { s.host.UnrestrictedGuest = false },
			"SDM 26.3.1.1: CR0: bits 0x80000000 must be 1"},
		{"PG without PE", reset, func(s *state) { s.sregs.CR0 |= cr0PG }, "SDM 26.3.1.1: CR0: PG needs PE"},
		{"CR4 fixed to 1", long, func(s *state) { s.host.CR4Fixed0 = 1 << 13 }, "SDM 26.3.1.1: CR4: bits 0x2000 must be 1"},
		{"CR4 fixed to 0", long, func(s *state) { s.sregs.CR4 |= 1 << 30 }, "SDM 26.3.1.1: CR4: bits 0x40000000 must be 0"},
		{"CET without WP", long, func(s *state) { s.host.CR4Fixed1 |= cr4CET; s.sregs.CR4 |= cr4CET }, "SDM 26.3.1.1: CR4: CET"},
		{"PCIDE outside IA-32e", protected, func(s *state) { s.sregs.CR4 |= cr4PCIDE }, "SDM 26.3.1.1: CR4: PCIDE"},
		{"CR3 too wide", long, func(s *state) { s.sregs.CR3 = 1 << 39 }, "SDM 26.3.1.1: CR3"},
		// EFER and IA-32e mode.
		{"EFER reserved", long, func(s *state) { s.sregs.EFER |= 1 << 12 }, "SDM 26.3.1.1: EFER: reserved bits 0x1000"},
		{"IA-32e without PG", long, func(s *state) { s.sregs.CR0 &^= cr0PG }, "SDM 26.3.1.1: CR0: IA-32e mode needs PG"},
		{"IA-32e without PAE", long, func(s *state) { s.sregs.CR4 = 0 }, "SDM 26.3.1.1: CR4: IA-32e mode needs PAE"},
		{"LMA without LME", long, func(s *state) { s.sregs.EFER = eferLMA }, "SDM 26.3.1.1: EFER: LMA must equal LME"},
		{"LME without LMA", paePaging, func(s *state) { s.sregs.EFER = eferLME }, "SDM 26.3.1.1: EFER: LMA must equal LME"},
		{"L outside IA-32e", protected, func(s *state) { s.sregs.CS.L, s.sregs.CS.DB = 1, 0 }, "KVM API 4.14: CS.L"},
		// Selectors.
		{"TR selector in LDT", long, func(s *state) { s.sregs.TR.Selector |= 4 }, "SDM 26.3.1.2: TR.selector"},
		{"LDTR selector in LDT", reset, func(s *state) { s.sregs.LDT.Selector = 4 }, "SDM 26.3.1.2: LDTR.selector"},
		{"SS RPL", user, func(s *state) { s.sregs.CS.Selector = 0x30 }, "SDM 26.3.1.2: SS.selector"},
		// Bases.
		{"CS base", long, func(s *state) { s.sregs.CS.Base = 1 << 32 }, "SDM 26.3.1.2: CS.base"},
		{"SS base", long, func(s *state) { s.sregs.SS.Base = 1 << 32 }, "SDM 26.3.1.2: SS.base"},
		{"ES base", long, func(s *state) { s.sregs.ES.Base = 1 << 32 }, "SDM 26.3.1.2: ES.base"},
		{"FS base", long, func(s *state) { s.sregs.FS.Base = 1 << 47 }, "SDM 26.3.1.2: FS.base"},
		{"GS base of a null segment", user, func(s *state) { s.sregs.GS.Base = 1 << 63 }, "SDM 26.3.1.2: GS.base"},
		{"TR base", long, func(s *state) { s.sregs.TR.Base = 1 << 62 }, "SDM 26.3.1.2: TR.base"},
		{"LDTR base", reset, func(s *state) { s.sregs.LDT.Base = 1 << 62 }, "SDM 26.3.1.2: LDTR.base"},
		// CS.
		{"CS data", long, func(s *state) { s.sregs.CS.Type = 1 }, "SDM 26.3.1.2: CS.type"},
		{"CS not accessed", long, func(s *state) { s.sregs.CS.Type = 0xa }, "SDM 26.3.1.2: CS.type"},
		{"CS type 3", user, func(s *state) { s.sregs.CS.Type = 3; level0(s) }, "SDM 26.3.1.2: CS.type"},
		{"CS type wider than 4 bits", long, func(s *state) { s.sregs.CS.Type = 0x1b }, "SDM 26.3.1.2: CS.type"},
		{"CS type 3 DPL", long, func(s *state) { s.sregs.CS.Type, s.sregs.CS.DPL = 3, 3 }, "SDM 26.3.1.2: CS.DPL"},
		{"CS DPL", long, func(s *state) { s.sregs.CS.DPL = 1 }, "SDM 26.3.1.2: CS.DPL"},
		{"conforming CS DPL", long, func(s *state) { s.sregs.CS.Type, s.sregs.CS.DPL = 0xf, 1 }, "SDM 26.3.1.2: CS.DPL"},
		{"CS unusable", long, func(s *state) { s.sregs.CS.Unusable = 1 }, "SDM 26.3.1.2: CS.unusable"},
		{"CS system", long, func(s *state) { s.sregs.CS.S = 0 }, "SDM 26.3.1.2: CS.S"},
		{"CS not present", long, func(s *state) { s.sregs.CS.Present = 0 }, "SDM 26.3.1.2: CS.P"},
		{"L and DB", long, func(s *state) { s.sregs.CS.DB = 1 }, "SDM 26.3.1.2: CS.DB"},
		{"CS G with a fine limit", long, func(s *state) { s.sregs.CS.Limit = 0xfffffffe }, "SDM 26.3.1.2: CS.G: 1"},
		{"CS limit without G", protected, func(s *state) { s.sregs.CS.G = 0 }, "SDM 26.3.1.2: CS.G: 0"},
		// SS.
		{"SS DPL in real mode", reset, func(s *state) { s.sregs.SS.DPL = 3; s.sregs.CS.DPL = 3 }, "SDM 26.3.1.2: SS.DPL"},
		{"SS DPL and RPL", user, func(s *state) { level0(s); s.sregs.CS.Selector, s.sregs.SS.Selector = 0x33, 0x2b }, "SDM 26.3.1.2: SS.DPL"},
		{"SS read-only", long, func(s *state) { s.sregs.SS.Type = 1 }, "SDM 26.3.1.2: SS.type"},
		{"SS code", long, func(s *state) { s.sregs.SS.Type = 0xb }, "SDM 26.3.1.2: SS.type"},
		{"SS not present", long, func(s *state) { s.sregs.SS.Present = 0 }, "SDM 26.3.1.2: SS.P"},
		// Data segments.
		{"DS not accessed", long, func(s *state) { s.sregs.DS.Type = 2 }, "SDM 26.3.1.2: DS.type"},
		{"ES execute-only", long, func(s *state) { s.sregs.ES.Type = 9 }, "SDM 26.3.1.2: ES.type"},
		{"FS DPL", user, func(s *state) {
			s.sregs.FS = s.sregs.SS
			s.sregs.FS.DPL = 2
		}, "SDM 26.3.1.2: FS.DPL"},
		{"GS system", long, func(s *state) { s.sregs.GS.S = 0 }, "SDM 26.3.1.2: GS.S"},
		{"DS limit without G", protected, func(s *state) { s.sregs.DS.G = 0 }, "SDM 26.3.1.2: DS.G: 0"},
		// Virtual-8086 mode.
		{"v8086 base", virtual8086, func(s *state) { s.sregs.ES.Base = 0 }, "SDM 26.3.1.2: ES.base"},
		{"v8086 limit", virtual8086, func(s *state) { s.sregs.SS.Limit = 0xfffff }, "SDM 26.3.1.2: SS.limit"},
		{"v8086 rights", virtual8086, func(s *state) { s.sregs.CS.Type = 0xb }, "SDM 26.3.1.2: CS.rights"},
		// TR and LDTR.
		{"TR available", long, func(s *state) { s.sregs.TR.Type = 9 }, "SDM 26.3.1.2: TR.type"},
		{"TR 16-bit in IA-32e", long, func(s *state) { s.sregs.TR.Type = 3 }, "SDM 26.3.1.2: TR.type"},
		{"TR available 16-bit", protected, func(s *state) { s.sregs.TR.Type = 1 }, "SDM 26.3.1.2: TR.type"},
		{"TR unusable", long, func(s *state) { s.sregs.TR.Unusable = 1 }, "SDM 26.3.1.2: TR.unusable"},
		{"TR not present", long, func(s *state) { s.sregs.TR.Present = 0 }, "SDM 26.3.1.2: TR.P"},
		{"TR not system", long, func(s *state) { s.sregs.TR.S = 1 }, "SDM 26.3.1.2: TR.S"},
		{"TR G", long, func(s *state) { s.sregs.TR.G = 1 }, "SDM 26.3.1.2: TR.G"},
		{"LDTR type", reset, func(s *state) { s.sregs.LDT.Type = 3 }, "SDM 26.3.1.2: LDTR.type"},
		{"LDTR not present", reset, func(s *state) { s.sregs.LDT.Present = 0 }, "SDM 26.3.1.2: LDTR.P"},
		// Tables, RIP, RFLAGS, PDPTEs.
		{"GDTR base", long, func(s *state) { s.sregs.GDT.Base = 1 << 47 }, "SDM 26.3.1.3: GDTR.base"},
		{"IDTR base", protected, func(s *state) { s.sregs.IDT.Base = 1 << 63 }, "SDM 26.3.1.3: IDTR.base"},
		{"RIP canonical", long, func(s *state) { s.regs.RIP = 1 << 47 }, "SDM 26.3.1.4: RIP"},
		{"RIP 32 bits", protected, func(s *state) { s.regs.RIP = 1 << 32 }, "SDM 26.3.1.4: RIP"},
		{"RIP in compatibility mode", long, func(s *state) { s.sregs.CS.L = 0; s.regs.RIP = 1 << 32 }, "SDM 26.3.1.4: RIP"},
		{"RFLAGS bit 1", long, func(s *state) { s.regs.RFLAGS = 0 }, "SDM 26.3.1.4: RFLAGS: bit 1"},
		{"RFLAGS reserved", long, func(s *state) { s.regs.RFLAGS |= 1<<3 | 1<<22 }, "SDM 26.3.1.4: RFLAGS: reserved bits 0x400008"},
		{"VM in real mode", virtual8086, func(s *state) { s.sregs.CR0 &^= cr0PE }, "SDM 26.3.1.4: RFLAGS: VM"},
		{"PDPTE reserved", paePaging, func(s *state) { s.host.PDPTEs[3] |= 2 }, "SDM 26.3.1.6: PDPTE3: reserved bits 0x2"},
		{"PDPTE too wide", paePaging, func(s *state) { s.host.PDPTEs[0] |= 1 << 39 }, "SDM 26.3.1.6: PDPTE0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.base()
			c.change(s)
			found := Check(&s.regs, &s.sregs, s.host)
			if len(found) != 1 || !strings.HasPrefix(found[0].Error(), c.want) {
				t.Errorf("got %v\nwant only %q", found, c.want)
			}
		})
	}
}

// level0 takes a user state to privilege level 0.
func level0(s *state) {
	s.sregs.CS.DPL, s.sregs.CS.Selector = 0, 0x30
	s.sregs.SS.DPL, s.sregs.SS.Selector = 0, 0x28
}

// TestAccepts holds the other side of rules that depend on the host or the mode.
func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		name   string
		base   func() *state
		change func(*state)
	}{
		{"PCIDE in IA-32e", long, func(s *state) { s.sregs.CR4 |= cr4PCIDE }},
		{"CS type 3 as an unrestricted guest", long, func(s *state) { s.sregs.CS.Type = 3 }},
		{"conforming CS below SS", user, func(s *state) { s.sregs.CS.Type, s.sregs.CS.DPL = 0xf, 0 }},
		{"16-bit TSS outside IA-32e", protected, func(s *state) { s.sregs.TR.Type = 3 }},
		{"SS unusable", long, func(s *state) { s.sregs.SS = kvm.Segment{Unusable: 1} }},
		{"absent PDPTE", paePaging, func(s *state) { s.host.PDPTEs[1] = 0x1e6 }},
		{"wide CR3 where the host is wide", long, func(s *state) { s.sregs.CR3, s.host.PhysicalBits = 1<<39, 46 }},
		{"57 bits", long, func(s *state) { s.regs.RIP, s.host.LinearBits = 1<<47, 57 }},
		{"high half", long, func(s *state) { s.regs.RIP = 0xffffffff81000000 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.base()
			c.change(s)
			if found := Check(&s.regs, &s.sregs, s.host); found != nil {
				t.Errorf("%v", found)
			}
		})
	}
}
