package vmm

import (
	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/kvm"
)

// entryState fills sregs with the boot loader's entry state and returns the general registers.
func entryState(e *boot.Entry, sregs *kvm.Sregs) kvm.Regs {
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	sregs.CS = segment(e.CS)
	data := segment(e.DS)
	sregs.DS, sregs.ES, sregs.FS, sregs.GS, sregs.SS = data, data, data, data, data
	sregs.TR = segment(e.TR)
	sregs.LDT = kvm.Segment{Unusable: 1}
	sregs.GDT.Base, sregs.GDT.Limit = e.GDTBase, e.GDTLimit
	sregs.IDT = kvm.DTable{}
	return kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RBX: e.RBX, RFLAGS: 2}
}

func segment(s boot.Segment) kvm.Segment {
	return kvm.Segment{Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type, Present: s.Present, DPL: s.DPL, DB: s.DB, S: s.S, L: s.L, G: s.G, AVL: s.AVL, Unusable: s.Unus}
}
