package vmm

import (
	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/kvm"
)

// entryState fills sregs with the boot loader's entry state and returns the general registers.
func entryState(e *boot.Entry, sregs *kvm.Sregs) kvm.Regs {
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	sregs.CS, sregs.DS, sregs.ES = segment(e.CS), segment(e.DS), segment(e.ES)
	sregs.FS, sregs.GS, sregs.SS = segment(e.FS), segment(e.GS), segment(e.SS)
	sregs.TR, sregs.LDT = segment(e.TR), segment(e.LDT)
	sregs.GDT = kvm.DTable{Base: e.GDT.Base, Limit: e.GDT.Limit}
	sregs.IDT = kvm.DTable{Base: e.IDT.Base, Limit: e.IDT.Limit}
	return kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RBX: e.RBX, RFLAGS: e.RFLAGS}
}

func segment(s boot.Segment) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type, S: s.S, DPL: s.DPL, Present: s.Present,
		AVL: s.AVL, L: s.L, DB: s.DB, G: s.G, Unusable: s.Unusable,
	}
}
