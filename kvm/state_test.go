package kvm_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
	"github.com/govmm/govmm/testhost/need"
)

// pieces are the parts of a vCPU's state that two ioctls get and set. change makes a value that no fresh vCPU has.
func pieces(v *kvm.VCPU, xsave int) []piece {
	return []piece{
		newPiece("regs", v.Regs, v.SetRegs, func(r *kvm.Regs) { r.RAX, r.R15, r.RIP = 1<<63|7, 15, 0x1234 }),
		newPiece("sregs", v.Sregs, v.SetSregs, func(s *kvm.Sregs) { s.CR2, s.ES.Base, s.ES.Limit = 0xabc000, 0x5550, 0xfff }),
		newPiece("xcrs", v.XCRs, v.SetXCRs, func(x *kvm.XCRs) { x.XCRs[0].Value = 3 }),
		newPiece("fpu", v.FPU, v.SetFPU, func(f *kvm.FPU) { f.XMM[3][5], f.FCW, f.MXCSR = 0x77, 0x27f, 0x1fa0 }),
		newPiece("xsave", func() ([]byte, error) { return v.Xsave(xsave) },
			func(b *[]byte) error { return v.SetXsave(*b) }, func(b *[]byte) {
				(*b)[160+16*4] = 0x99 // XMM4
				(*b)[512] |= 2        // XSTATE_BV: SSE state is not in its initial configuration
			}),
		newPiece("lapic", v.LAPIC, v.SetLAPIC, func(l *kvm.LAPICState) { l.Regs[0xf0], l.Regs[0xf1] = 0xef, 1 }),
		newPiece("events", v.Events, v.SetEvents, func(e *kvm.VCPUEvents) {
			e.NMI.Masked, e.Interrupt.Shadow, e.Flags = 1, 1, kvm.VCPUEventShadow
		}),
		newPiece("debugregs", v.DebugRegs, v.SetDebugRegs, func(d *kvm.DebugRegs) { d.DB[2], d.DR7 = 0x7000, 0x420 }),
		newPiece("mp state", v.MPState, func(s *kvm.MPState) error { return v.SetMPState(*s) },
			func(s *kvm.MPState) { *s = kvm.MPStateHalted }),
		newPiece("sregs2", v.Sregs2, v.SetSregs2, func(s *kvm.Sregs2) { s.CR2, s.GDT.Limit = 0xdef000, 0x37 }),
	}
}

// piece is one part of the state, with its type hidden.
type piece struct {
	name string
	// change sets a new value; save reads the value; load sets one that was read.
	change func() error
	save   func() (any, error)
	load   func(any) error
}

func newPiece[T any](name string, get func() (T, error), set func(*T) error, change func(*T)) piece {
	return piece{
		name: name,
		change: func() error {
			v, err := get()
			if err != nil {
				return err
			}
			change(&v)
			return set(&v)
		},
		save: func() (any, error) { return get() },
		load: func(v any) error { t := v.(T); return set(&t) },
	}
}

var ignorePadding = cmpopts.IgnoreUnexported(kvm.Regs{}, kvm.Segment{}, kvm.DTable{}, kvm.FPU{}, kvm.VCPUEvents{},
	kvm.DebugRegs{}, kvm.XCRs{}, kvm.XCR{}, kvm.MSREntry{}, kvm.CPUIDEntry{}, kvm.PITState{}, kvm.IRQChip{},
	kvm.VCPUEvents{}.NMI, kvm.ClockData{})

// stateGuest has everything whose state there is, and CPUID, without which XCR0 has no bits.
func stateGuest(t *testing.T, s *kvm.System) *kvmtest.Guest {
	t.Helper()
	g := kvmtest.New(t, s, kvmtest.Real, []byte{0xf4}, (*kvm.VM).CreateIRQChip)
	leaves, err := s.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.VCPU.SetCPUID2(leaves); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestVCPUStateMoves(t *testing.T) {
	s := kvmtest.Open(t)
	from, to := stateGuest(t, s), stateGuest(t, s)
	size, err := from.VM.CheckExtension(kvm.CapXsave2)
	if err != nil {
		t.Fatal(err)
	}
	source, target := pieces(from.VCPU, size), pieces(to.VCPU, size)
	for i, p := range source {
		t.Run(p.name, func(t *testing.T) {
			if err := p.change(); err != nil {
				t.Fatalf("change: %v", err)
			}
			want, err := p.save()
			if err != nil {
				t.Fatalf("save: %v", err)
			}
			before, err := target[i].save()
			if err != nil {
				t.Fatalf("read the target: %v", err)
			}
			if cmp.Equal(before, want, ignorePadding) {
				t.Fatal("the change has no effect, so the test shows nothing")
			}
			if err := target[i].load(want); err != nil {
				t.Fatalf("load: %v", err)
			}
			got, err := target[i].save()
			if err != nil {
				t.Fatalf("save again: %v", err)
			}
			if diff := cmp.Diff(want, got, ignorePadding); diff != "" {
				t.Errorf("after load (-want +got):\n%s", diff)
			}
		})
	}
}

// TestGuestMoves stops a counting guest, moves it to a new VM, and expects it to count on.
func TestGuestMoves(t *testing.T) {
	s := kvmtest.Open(t)
	code := []byte{
		0x48, 0xff, 0xc0, // inc rax
		0x89, 0x04, 0x25, 0x00, 0x40, 0x00, 0x00, // mov [0x4000], eax
		0xe6, 0x80, // out 0x80, al
		0xeb, 0xf2, // jmp back
	}
	g := kvmtest.New(t, s, kvmtest.Long, code)
	for want := range byte(30) {
		g.Run(t, kvm.ExitIO)
		if got := g.VCPU.IO().Data[0]; got != want+1 {
			t.Fatalf("count %d, want %d", got, want+1)
		}
		if want%10 == 5 {
			g = move(t, s, g)
		}
		if g.Mem[0x4000] != want+1 {
			t.Fatalf("memory has %d, want %d", g.Mem[0x4000], want+1)
		}
	}
}

func move(t *testing.T, s *kvm.System, from *kvmtest.Guest) *kvmtest.Guest {
	t.Helper()
	// The out instruction is complete only after the next Run; immediate_exit makes that do nothing else.
	from.VCPU.SetImmediateExit(true)
	if _, err := from.VCPU.Run(); !errors.Is(err, kvm.ErrInterrupted) {
		t.Fatal(err)
	}
	to := kvmtest.New(t, s, kvmtest.Real, nil)
	copy(to.Mem, from.Mem)
	regs, err := from.VCPU.Regs()
	sregs, err2 := from.VCPU.Sregs()
	if err := errors.Join(err, err2, to.VCPU.SetSregs(&sregs), to.VCPU.SetRegs(&regs)); err != nil {
		t.Fatal(err)
	}
	from.Close()
	return to
}

func TestMSRs(t *testing.T) {
	s := kvmtest.Open(t)
	g := stateGuest(t, s)
	want := []kvm.MSREntry{
		{Index: kvm.MSRLSTAR, Data: 0xffffffff81000000}, {Index: kvm.MSRKernelGSBase, Data: 0x1000},
	}
	if err := g.VCPU.SetMSRs(want); err != nil {
		t.Fatal(err)
	}
	got, err := g.VCPU.MSRs([]uint32{kvm.MSRLSTAR, kvm.MSRKernelGSBase})
	if diff := cmp.Diff(want, got, ignorePadding); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	// LSTAR must be canonical, so KVM stops there and does not come to the third.
	err = g.VCPU.SetMSRs([]kvm.MSREntry{{Index: kvm.MSRCSTAR}, {Index: kvm.MSRLSTAR, Data: 1 << 62}, {Index: kvm.MSRSTAR, Data: 5}})
	var refused *kvm.MSRError
	if !errors.As(err, &refused) || refused.Position != 1 || refused.Index != kvm.MSRLSTAR {
		t.Errorf("%v, want an MSRError for the second MSR", err)
	}
	if got, err := g.VCPU.MSRs(nil); err != nil || len(got) != 0 {
		t.Errorf("no MSRs: %v, %v", got, err)
	}
}

// TestAllMSRs reads what a snapshot would keep, and sets it again.
func TestAllMSRs(t *testing.T) {
	s := kvmtest.Open(t)
	g := stateGuest(t, s)
	indices, err := s.MSRIndexList()
	if err != nil || !slices.Contains(indices, uint32(kvm.MSRLSTAR)) {
		t.Fatalf("MSR index list %x, %v, want one with LSTAR", indices, err)
	}
	read := 0
	for _, index := range indices {
		msrs, err := g.VCPU.MSRs([]uint32{index})
		if err != nil {
			t.Fatal(err)
		}
		read += len(msrs)
	}
	if read < 10 {
		t.Errorf("%d of %d MSRs can be read", read, len(indices))
	}
}

func TestSystemMSRs(t *testing.T) {
	s := kvmtest.Open(t)
	indices, err := s.MSRFeatureIndexList()
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range indices {
		if got, err := s.MSRs([]uint32{index}); err != nil || len(got) == 1 && got[0].Index != index {
			t.Errorf("feature MSR %#x: %v, %v", index, got, err)
		}
	}
}

func TestCPUID(t *testing.T) {
	s := kvmtest.Open(t)
	want, err := s.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(want, func(e kvm.CPUIDEntry) bool { return e.Function == kvm.CPUIDKVMSignature }); i < 0 {
		t.Errorf("no leaf %#x with KVM's signature", uint32(kvm.CPUIDKVMSignature))
	} else if want[i].EBX != 0x4b4d564b { // "KVMK"
		t.Errorf("signature %#x, want 0x4b4d564b", want[i].EBX)
	}
	if _, err := s.EmulatedCPUID(); err != nil {
		t.Error(err)
	}
	g := kvmtest.New(t, s, kvmtest.Long, []byte{
		0xb8, 0x00, 0x00, 0x00, 0x40, // mov eax, 0x40000000
		0x0f, 0xa2, // cpuid
		0xf4,
	})
	mine := []kvm.CPUIDEntry{{Function: 0, EAX: 1, EBX: 7}, {Function: kvm.CPUIDKVMSignature, EBX: 0x12345678}}
	if err := g.VCPU.SetCPUID2(mine); err != nil {
		t.Fatal(err)
	}
	got, err := g.VCPU.CPUID2()
	if err != nil {
		t.Fatal(err)
	}
	// Some versions of KVM add leaves of their own.
	for _, e := range mine {
		if !slices.Contains(got, e) {
			t.Errorf("leaf %+v is not among %+v", e, got)
		}
	}
	g.Run(t, kvm.ExitHLT)
	regs, err := g.VCPU.Regs()
	if err != nil || regs.RBX != 0x12345678 {
		t.Errorf("the guest sees ebx %#x, %v, want 0x12345678", regs.RBX, err)
	}
}

func TestVMDevices(t *testing.T) {
	s := kvmtest.Open(t)
	g := kvmtest.New(t, s, kvmtest.Real, nil, (*kvm.VM).CreateIRQChip, func(vm *kvm.VM) error {
		return vm.CreatePIT2(kvm.PITSpeakerDummy)
	})
	pit, err := g.VM.PIT2()
	if err != nil {
		t.Fatal(err)
	}
	pit.Channels[2].Mode, pit.Channels[2].Count = 3, 1193
	if err := g.VM.SetPIT2(&pit); err != nil {
		t.Fatal(err)
	}
	got, err := g.VM.PIT2()
	if err != nil || got.Channels[2].Mode != 3 || got.Channels[2].Count != 1193 {
		t.Errorf("PIT channel 2 %+v, %v, want mode 3, count 1193", got.Channels[2], err)
	}
	for _, id := range []kvm.IRQChipID{kvm.IRQChipPICMaster, kvm.IRQChipPICSlave, kvm.IRQChipIOAPIC} {
		chip, err := g.VM.IRQChip(id)
		if err != nil || chip.ChipID != id {
			t.Fatalf("interrupt controller %d: %v", id, err)
		}
		if id == kvm.IRQChipIOAPIC && chip.IOAPIC().BaseAddress != 0xfec00000 {
			t.Errorf("IOAPIC at %#x, want 0xfec00000", chip.IOAPIC().BaseAddress)
		}
		if err := g.VM.SetIRQChip(&chip); err != nil {
			t.Errorf("interrupt controller %d: %v", id, err)
		}
	}
}

func TestClock(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xf4})
	const want = 3600e9 // an hour
	if err := g.VM.SetClock(&kvm.ClockData{Clock: want}); err != nil {
		t.Fatal(err)
	}
	c, err := g.VM.Clock()
	if err != nil || c.Clock < want || c.Clock > want+60e9 {
		t.Errorf("clock %d ns, %v, want a little above %d", c.Clock, err, uint64(want))
	}
}

func TestTSC(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xf4})
	khz, err := g.VCPU.TSCKHz()
	if err != nil || khz < 100_000 {
		t.Fatalf("%d kHz, %v, want more than 100 MHz", khz, err)
	}
	if err := g.VCPU.SetTSCKHz(khz); err != nil {
		t.Error(err)
	}
}

func TestTSCOffset(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0x0f, 0x31, // rdtsc
		0xf4,
	})
	const want = 1 << 60
	// A KVM without hardware below takes an MSR's value and gives the guest the host's TSC all the same.
	if err := g.VCPU.SetMSRs([]kvm.MSREntry{{Index: kvm.MSRTSC, Data: want}}); err != nil {
		t.Fatal(err)
	}
	if msrs, err := g.VCPU.MSRs([]uint32{kvm.MSRTSC}); err != nil || len(msrs) != 1 || msrs[0].Data < want {
		need.Lacking(t, need.TSCOffset, "a KVM that can offset a guest's TSC: it reads %+v, %v after it was set to %#x", msrs, err, uint64(want))
	}
	if err := g.VCPU.SetTSCOffset(2 * want); err != nil {
		t.Fatal(err)
	}
	// Where the host's TSC is not stable KVM corrects the offset by a little each time.
	const little = 1 << 40
	if got, err := g.VCPU.TSCOffset(); err != nil || got-2*want+little > 2*little {
		t.Errorf("offset %#x, %v, want about %#x", got, err, uint64(2*want))
	}
	g.Run(t, kvm.ExitHLT)
	regs, err := g.VCPU.Regs()
	if tsc := regs.RDX<<32 | regs.RAX; err != nil || tsc < 2*want || tsc > 2*want+1<<58 {
		t.Errorf("the guest's TSC is %#x, %v, want a little above %#x", tsc, err, uint64(2*want))
	}
}

func TestTranslate(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{0xf4})
	tr, err := g.VCPU.Translate(0x5123)
	if err != nil || tr.PhysicalAddress != 0x5123 || tr.Valid == 0 {
		t.Errorf("%+v, %v, want 0x5123, valid", tr, err)
	}
	if tr, err := g.VCPU.Translate(2 << 30); err != nil || tr.Valid != 0 {
		t.Errorf("%+v, %v, want not valid", tr, err)
	}
}

func TestGuestDebug(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Protected, []byte{0x90, 0x90, 0xf4})
	if err := g.VCPU.SetGuestDebug(&kvm.GuestDebug{Control: kvm.GuestDebugEnable | kvm.GuestDebugSingleStep}); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		g.Run(t, kvm.ExitDebug)
		if pc := g.VCPU.Debug().PC; pc != kvmtest.CodeAddr+i+1 {
			t.Errorf("step %d stopped at %#x, want %#x", i, pc, kvmtest.CodeAddr+i+1)
		}
	}
}
