// Package entrycheck tells whether a processor would refuse a vCPU's state at VM entry. It carries out the checks of the
// guest-state area of the Intel SDM, volume 3, section 26.3.1 (in recent editions 27.3.1 or 28.3.1, with the same
// sub-sections), which are stricter than AMD's, over the structures of KVM_SET_REGS and KVM_SET_SREGS. With it a state
// that is built on one vendor's machine can be held to the other's rules.
package entrycheck

import (
	"fmt"

	"github.com/govmm/govmm/kvm"
)

// Host is what the rules need to know of the processor.
type Host struct {
	// CR0Fixed0 and CR0Fixed1 are IA32_VMX_CR0_FIXED0 and _FIXED1: bits that must be 1 in CR0, and bits that may be 1.
	// KVM sets CR0.NE and CR4.VMXE itself, whatever the guest has: leave them out of what must be 1.
	CR0Fixed0, CR0Fixed1 uint64
	// CR4Fixed0 and CR4Fixed1 are the same for CR4.
	CR4Fixed0, CR4Fixed1 uint64
	// EFER is the bits of IA32_EFER that exist.
	EFER uint64
	// PhysicalBits and LinearBits are the widths of physical and linear addresses.
	PhysicalBits, LinearBits uint
	// UnrestrictedGuest says that the processor can enter real mode and unpaged protected mode.
	UnrestrictedGuest bool
	// PDPTEs are the four entries that CR3 points to. They are checked with PAE paging only; nil leaves them out.
	PDPTEs *[4]uint64
}

// Typical is an Intel processor of the last decade, with the features that nearly all of them have.
func Typical() Host {
	return Host{
		CR0Fixed0: cr0PE | cr0PG, CR0Fixed1: 0xffffffff,
		CR4Fixed1: 0x3767ff,
		EFER:      eferSCE | eferLME | eferLMA | eferNX, PhysicalBits: 39, LinearBits: 48,
		UnrestrictedGuest: true,
	}
}

// Violation is a rule that the state breaks.
type Violation struct {
	// Section is that of the Intel SDM, or KVM for a check that KVM_SET_SREGS makes.
	Section string
	// Field is the register or the part of it, such as CS.type.
	Field string
	// Problem is what is wrong with it.
	Problem string
}

func (v *Violation) Error() string { return v.Section + ": " + v.Field + ": " + v.Problem }

// Bits of the control registers, EFER and RFLAGS.
const (
	cr0PE    = 1 << 0
	cr0WP    = 1 << 16
	cr0PG    = 1 << 31
	cr4PAE   = 1 << 5
	cr4PCIDE = 1 << 17
	cr4CET   = 1 << 23
	eferSCE  = 1 << 0
	eferLME  = 1 << 8
	eferLMA  = 1 << 10
	eferNX   = 1 << 11
	flagVM   = 1 << 17
	// flagsZero and flagsOne are the reserved bits of RFLAGS.
	flagsZero = ^uint64(1<<22-1) | 1<<15 | 1<<5 | 1<<3
	flagsOne  = 1 << 1
)

// Sections of the SDM.
const (
	sectionControl     = "SDM 26.3.1.1"
	sectionSegments    = "SDM 26.3.1.2"
	sectionTables      = "SDM 26.3.1.3"
	sectionRIP         = "SDM 26.3.1.4"
	sectionPDPTE       = "SDM 26.3.1.6"
	sectionKVMSetSregs = "KVM API 4.14"
)

type checker struct {
	regs  *kvm.Regs
	s     *kvm.Sregs
	host  Host
	found []error
}

// Check returns a Violation for every rule that the state breaks, and nil if the processor would take it.
func Check(regs *kvm.Regs, sregs *kvm.Sregs, host Host) []error {
	c := &checker{regs: regs, s: sregs, host: host}
	c.controlRegisters()
	c.efer()
	c.segments()
	c.descriptorTables()
	c.ripAndFlags()
	c.pdptes()
	return c.found
}

func (c *checker) fail(section, field, problem string, args ...any) {
	c.found = append(c.found, &Violation{section, field, fmt.Sprintf(problem, args...)})
}

// ia32e is the IA-32e mode guest control, which KVM sets from EFER.LMA.
func (c *checker) ia32e() bool { return c.s.EFER&eferLMA != 0 }

func (c *checker) virtual8086() bool { return c.regs.RFLAGS&flagVM != 0 }

func (c *checker) canonical(a uint64) bool {
	shift := 64 - c.host.LinearBits
	return uint64(int64(a<<shift)>>shift) == a
}

func (c *checker) controlRegisters() {
	s, must := c.s, c.host.CR0Fixed0
	if c.host.UnrestrictedGuest {
		must &^= cr0PE | cr0PG
	}
	if missing := must &^ s.CR0; missing != 0 {
		c.fail(sectionControl, "CR0", "bits %#x must be 1 (IA32_VMX_CR0_FIXED0)", missing)
	}
	if extra := s.CR0 &^ c.host.CR0Fixed1; extra != 0 {
		c.fail(sectionControl, "CR0", "bits %#x must be 0 (IA32_VMX_CR0_FIXED1)", extra)
	}
	if s.CR0&cr0PG != 0 && s.CR0&cr0PE == 0 {
		c.fail(sectionControl, "CR0", "PG needs PE")
	}
	if missing := c.host.CR4Fixed0 &^ s.CR4; missing != 0 {
		c.fail(sectionControl, "CR4", "bits %#x must be 1 (IA32_VMX_CR4_FIXED0)", missing)
	}
	if extra := s.CR4 &^ c.host.CR4Fixed1; extra != 0 {
		c.fail(sectionControl, "CR4", "bits %#x must be 0 (IA32_VMX_CR4_FIXED1)", extra)
	}
	if s.CR4&cr4CET != 0 && s.CR0&cr0WP == 0 {
		c.fail(sectionControl, "CR4", "CET needs CR0.WP")
	}
	if s.CR4&cr4PCIDE != 0 && !c.ia32e() {
		c.fail(sectionControl, "CR4", "PCIDE needs IA-32e mode")
	}
	if s.CR3>>c.host.PhysicalBits != 0 {
		c.fail(sectionControl, "CR3", "%#x is wider than %d bits", s.CR3, c.host.PhysicalBits)
	}
}

func (c *checker) efer() {
	s := c.s
	if extra := s.EFER &^ c.host.EFER; extra != 0 {
		c.fail(sectionControl, "EFER", "reserved bits %#x must be 0", extra)
	}
	if c.ia32e() && s.CR0&cr0PG == 0 {
		c.fail(sectionControl, "CR0", "IA-32e mode needs PG")
	}
	if c.ia32e() && s.CR4&cr4PAE == 0 {
		c.fail(sectionControl, "CR4", "IA-32e mode needs PAE")
	}
	if s.CR0&cr0PG != 0 && c.ia32e() != (s.EFER&eferLME != 0) {
		c.fail(sectionControl, "EFER", "LMA must equal LME while CR0.PG is 1")
	}
	if !c.ia32e() && s.CS.L != 0 {
		c.fail(sectionKVMSetSregs, "CS.L", "1 outside IA-32e mode")
	}
}

func (c *checker) descriptorTables() {
	if !c.canonical(c.s.GDT.Base) {
		c.fail(sectionTables, "GDTR.base", "%#x is not canonical", c.s.GDT.Base)
	}
	if !c.canonical(c.s.IDT.Base) {
		c.fail(sectionTables, "IDTR.base", "%#x is not canonical", c.s.IDT.Base)
	}
}

func (c *checker) ripAndFlags() {
	rip, flags := c.regs.RIP, c.regs.RFLAGS
	if c.ia32e() && c.s.CS.L != 0 {
		if !c.canonical(rip) {
			c.fail(sectionRIP, "RIP", "%#x is not canonical", rip)
		}
	} else if rip>>32 != 0 {
		c.fail(sectionRIP, "RIP", "%#x is wider than 32 bits outside 64-bit mode", rip)
	}
	if flags&flagsZero != 0 {
		c.fail(sectionRIP, "RFLAGS", "reserved bits %#x must be 0", flags&flagsZero)
	}
	if flags&flagsOne == 0 {
		c.fail(sectionRIP, "RFLAGS", "bit 1 must be 1")
	}
	if c.virtual8086() && (c.ia32e() || c.s.CR0&cr0PE == 0) {
		c.fail(sectionRIP, "RFLAGS", "VM must be 0 in IA-32e mode and in real mode")
	}
}

// pdptes checks the page-directory-pointer-table entries that VM entry loads with PAE paging.
func (c *checker) pdptes() {
	s := c.s
	if c.host.PDPTEs == nil || s.CR0&cr0PG == 0 || s.CR4&cr4PAE == 0 || c.ia32e() {
		return
	}
	reserved := uint64(0x1e6) | ^uint64(0)<<c.host.PhysicalBits
	for i, e := range c.host.PDPTEs {
		if e&1 != 0 && e&reserved != 0 {
			c.fail(sectionPDPTE, fmt.Sprintf("PDPTE%d", i), "reserved bits %#x must be 0", e&reserved)
		}
	}
}
