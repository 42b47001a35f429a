// Package kvmtest opens /dev/kvm in tests and makes guests of a few bytes of machine code.
package kvmtest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/internal/flat"
	"github.com/govmm/govmm/testhost/need"
)

// Open opens /dev/kvm. Where that fails it skips the test, or fails it if the list in GOVMM_REQUIRE has kvm.
func Open(t testing.TB) *kvm.System {
	t.Helper()
	s, err := kvm.Open()
	if err != nil {
		need.Lacking(t, need.KVM, "KVM: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Layout of a Guest's memory.
const (
	// MemorySize is the length of guest memory, which starts at guest-physical address 0, in bytes.
	MemorySize = 2 << 20
	// CodeAddr is where the code is.
	CodeAddr = 0x1000
	// StackAddr is the initial stack pointer.
	StackAddr = 0x8000
	// TablesAddr is where the page tables of 64-bit guests are.
	TablesAddr = 0x10000
)

// Mode is the mode of the processor in which a Guest's code starts.
type Mode int

// The modes.
const (
	Real Mode = iota
	Protected
	Long
)

// Guest is a VM with one slot of memory and one vCPU.
type Guest struct {
	VM   *kvm.VM
	VCPU *kvm.VCPU
	Mem  []byte
}

// New makes a guest that will run code at privilege level 0 in the given mode. It runs each setup between the making of
// the VM and that of its vCPU. The test's cleanup closes everything.
func New(t testing.TB, s *kvm.System, mode Mode, code []byte, setup ...func(*kvm.VM) error) *Guest {
	t.Helper()
	g := &Guest{}
	t.Cleanup(g.Close)
	if err := g.build(s, mode, code, setup); err != nil {
		t.Fatalf("make a guest: %v", err)
	}
	return g
}

func (g *Guest) build(s *kvm.System, mode Mode, code []byte, setup []func(*kvm.VM) error) (err error) {
	if g.Mem, err = unix.Mmap(-1, 0, MemorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return err
	}
	copy(g.Mem[CodeAddr:], code)
	if g.VM, err = s.CreateVM(); err != nil {
		return err
	}
	for _, f := range append([]func(*kvm.VM) error{intelPages}, setup...) {
		if err := f(g.VM); err != nil {
			return err
		}
	}
	if err := g.VM.SetUserMemoryRegion(0, 0, 0, g.Mem); err != nil {
		return err
	}
	if g.VCPU, err = g.VM.CreateVCPU(0); err != nil {
		return err
	}
	return g.Reset(mode)
}

// intelPages gives KVM the four pages that it needs on Intel hosts without unrestricted guest mode.
func intelPages(vm *kvm.VM) error {
	return errors.Join(vm.SetIdentityMapAddr(0xfffbc000), vm.SetTSSAddr(0xfffbd000))
}

// Reset puts the vCPU at the start of the code again.
func (g *Guest) Reset(mode Mode) error {
	sregs, err := g.VCPU.Sregs()
	if err != nil {
		return err
	}
	switch mode {
	case Real:
		flat.Real(&sregs)
	case Protected:
		flat.Protected(&sregs)
	case Long:
		flat.Long(&sregs, g.Mem, TablesAddr)
	}
	if err := g.VCPU.SetSregs(&sregs); err != nil {
		return err
	}
	return g.VCPU.SetRegs(&kvm.Regs{RIP: CodeAddr, RSP: StackAddr, RFLAGS: 2})
}

// Run runs the vCPU until it has something to tell, and fails the test if that is not an exit of kind want.
func (g *Guest) Run(t testing.TB, want kvm.ExitReason) {
	t.Helper()
	for {
		reason, err := g.VCPU.Run()
		if errors.Is(err, kvm.ErrInterrupted) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if reason != want {
			t.Fatalf("exit %v, want %v%s", reason, want, g.explain(reason))
		}
		return
	}
}

func (g *Guest) explain(reason kvm.ExitReason) string {
	switch reason {
	case kvm.ExitInternalError:
		return ": " + g.VCPU.InternalError().Error()
	case kvm.ExitFailEntry:
		return ": " + g.VCPU.FailEntry().Error()
	}
	return ""
}

// Close closes the vCPU and the VM and unmaps the memory; nobody may be in Run. Closing again does nothing.
func (g *Guest) Close() {
	if g.VCPU != nil {
		g.VCPU.Close()
	}
	if g.VM != nil {
		g.VM.Close()
	}
	if g.Mem != nil {
		_ = unix.Munmap(g.Mem)
		g.Mem = nil
	}
}
