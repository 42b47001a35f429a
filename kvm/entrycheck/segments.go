package entrycheck

import "github.com/govmm/govmm/kvm"

// Segment types.
const (
	typeDataRW      = 0x3 // writable, accessed
	typeDataRWDown  = 0x7 // expand-down
	typeLDT         = 0x2
	typeBusyTSS16   = 0x3
	typeBusyTSS     = 0xb
	typeAccessed    = 1 << 0
	typeReadable    = 1 << 1
	typeConforming  = 1 << 2
	typeCode        = 1 << 3
	selectorRPL     = 0x3
	selectorTI      = 1 << 2
	v8086Limit      = 0xffff
	v8086Type       = typeDataRW
	v8086Privileges = 3
)

type named struct {
	name string
	*kvm.Segment
}

func (n named) usable() bool { return n.Unusable == 0 }

func (n named) rpl() uint8 { return uint8(n.Selector & selectorRPL) }

// segments carries out SDM 26.3.1.2.
func (c *checker) segments() {
	s := c.s
	cs, ss := named{"CS", &s.CS}, named{"SS", &s.SS}
	data := []named{{"DS", &s.DS}, {"ES", &s.ES}, {"FS", &s.FS}, {"GS", &s.GS}}
	if c.virtual8086() {
		for _, seg := range append(data, cs, ss) {
			c.v8086Segment(seg)
		}
	} else {
		c.codeSegment(cs, ss)
		c.stackSegment(ss, cs)
		for _, seg := range data {
			c.dataSegment(seg)
		}
	}
	c.segmentBases(cs, append([]named{ss}, data...))
	c.taskRegister(named{"TR", &s.TR})
	c.localTable(named{"LDTR", &s.LDT})
}

// v8086Segment: in virtual-8086 mode everything is as real-mode code would have it, at privilege level 3.
func (c *checker) v8086Segment(n named) {
	if n.Base != uint64(n.Selector)<<4 {
		c.fail(sectionSegments, n.name+".base", "%#x is not 16 times the selector %#x", n.Base, n.Selector)
	}
	if n.Limit != v8086Limit {
		c.fail(sectionSegments, n.name+".limit", "%#x, want 0xffff in virtual-8086 mode", n.Limit)
	}
	ok := n.Type == v8086Type && n.S == 1 && n.DPL == v8086Privileges && n.Present == 1 && n.AVL|n.L|n.DB|n.G|n.Unusable == 0
	if !ok {
		c.fail(sectionSegments, n.name+".rights", "want 0xf3 in virtual-8086 mode")
	}
}

func (c *checker) codeSegment(cs, ss named) {
	switch {
	case cs.Type == typeDataRW && c.host.UnrestrictedGuest:
		if cs.DPL != 0 {
			c.fail(sectionSegments, "CS.DPL", "%d, want 0 with type 3", cs.DPL)
		}
	case cs.Type > 0xf || cs.Type&(typeCode|typeAccessed) != typeCode|typeAccessed:
		c.fail(sectionSegments, "CS.type", "%d, want accessed code (9, 11, 13, 15)", cs.Type)
	case cs.Type&typeConforming == 0 && cs.DPL != ss.DPL:
		c.fail(sectionSegments, "CS.DPL", "%d, want SS.DPL, %d", cs.DPL, ss.DPL)
	case cs.Type&typeConforming != 0 && cs.DPL > ss.DPL:
		c.fail(sectionSegments, "CS.DPL", "%d, want at most SS.DPL, %d, as it is conforming", cs.DPL, ss.DPL)
	}
	if !cs.usable() {
		c.fail(sectionSegments, "CS.unusable", "CS is always used")
	}
	if c.ia32e() && cs.L != 0 && cs.DB != 0 {
		c.fail(sectionSegments, "CS.DB", "1, want 0 with CS.L in IA-32e mode")
	}
	c.rights(cs, 1)
}

func (c *checker) stackSegment(ss, cs named) {
	if !c.host.UnrestrictedGuest {
		if ss.rpl() != cs.rpl() {
			c.fail(sectionSegments, "SS.selector", "RPL %d, want that of CS, %d", ss.rpl(), cs.rpl())
		}
		if ss.DPL != ss.rpl() {
			c.fail(sectionSegments, "SS.DPL", "%d, want the RPL, %d", ss.DPL, ss.rpl())
		}
	}
	if (cs.Type == typeDataRW || c.s.CR0&cr0PE == 0) && ss.DPL != 0 {
		c.fail(sectionSegments, "SS.DPL", "%d, want 0 in real mode or with CS.type 3", ss.DPL)
	}
	if !ss.usable() {
		return
	}
	if ss.Type != typeDataRW && ss.Type != typeDataRWDown {
		c.fail(sectionSegments, "SS.type", "%d, want writable accessed data (3, 7)", ss.Type)
	}
	c.rights(ss, 1)
}

func (c *checker) dataSegment(n named) {
	if !n.usable() {
		return
	}
	if n.Type > 0xf || n.Type&typeAccessed == 0 {
		c.fail(sectionSegments, n.name+".type", "%d, want an accessed one", n.Type)
	} else if n.Type&typeCode != 0 && n.Type&typeReadable == 0 {
		c.fail(sectionSegments, n.name+".type", "%d, want a readable one", n.Type)
	}
	if !c.host.UnrestrictedGuest && n.Type < 12 && n.DPL < n.rpl() {
		c.fail(sectionSegments, n.name+".DPL", "%d, want at least the RPL, %d", n.DPL, n.rpl())
	}
	c.rights(n, 1)
}

// rights checks what all usable segments have in common: S, P, and that the limit is one that G can express.
func (c *checker) rights(n named, s uint8) {
	if n.S != s {
		c.fail(sectionSegments, n.name+".S", "%d, want %d", n.S, s)
	}
	if n.Present != 1 {
		c.fail(sectionSegments, n.name+".P", "%d, want 1", n.Present)
	}
	if n.Limit&0xfff != 0xfff && n.G != 0 {
		c.fail(sectionSegments, n.name+".G", "1, want 0 as the low bits of the limit %#x are not all 1", n.Limit)
	}
	if n.Limit>>20 != 0 && n.G == 0 {
		c.fail(sectionSegments, n.name+".G", "0, want 1 as the limit %#x is 1 MiB or more", n.Limit)
	}
}

func (c *checker) segmentBases(cs named, others []named) {
	if cs.Base>>32 != 0 {
		c.fail(sectionSegments, "CS.base", "%#x is wider than 32 bits", cs.Base)
	}
	for _, n := range others {
		if n.name == "FS" || n.name == "GS" {
			c.canonicalBase(n)
		} else if n.usable() && n.Base>>32 != 0 {
			c.fail(sectionSegments, n.name+".base", "%#x is wider than 32 bits", n.Base)
		}
	}
}

func (c *checker) canonicalBase(n named) {
	if !c.canonical(n.Base) {
		c.fail(sectionSegments, n.name+".base", "%#x is not canonical", n.Base)
	}
}

func (c *checker) taskRegister(tr named) {
	if tr.Selector&selectorTI != 0 {
		c.fail(sectionSegments, "TR.selector", "%#x is in the LDT", tr.Selector)
	}
	if tr.Type != typeBusyTSS && (c.ia32e() || tr.Type != typeBusyTSS16) {
		c.fail(sectionSegments, "TR.type", "%d, want a busy TSS (11, or 3 outside IA-32e mode)", tr.Type)
	}
	if !tr.usable() {
		c.fail(sectionSegments, "TR.unusable", "TR is always used")
	}
	c.canonicalBase(tr)
	c.rights(tr, 0)
}

func (c *checker) localTable(ldt named) {
	if !ldt.usable() {
		return
	}
	if ldt.Selector&selectorTI != 0 {
		c.fail(sectionSegments, "LDTR.selector", "%#x is in the LDT", ldt.Selector)
	}
	if ldt.Type != typeLDT {
		c.fail(sectionSegments, "LDTR.type", "%d, want 2", ldt.Type)
	}
	c.canonicalBase(ldt)
	c.rights(ldt, 0)
}
