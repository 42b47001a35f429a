package kvm_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

func TestPortOut(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{
		0xb0, 'A', // mov al, 'A'
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,             // out dx, al
		0xb8, 0x34, 0x12, // mov ax, 0x1234
		0xe7, 0x80, // out 0x80, ax
		0xf4, // hlt
	})
	g.Run(t, kvm.ExitIO)
	if diff := cmp.Diff(kvm.IO{Port: 0x3f8, Size: 1, Count: 1, Data: []byte{'A'}}, g.VCPU.IO()); diff != "" {
		t.Errorf("first out (-want +got):\n%s", diff)
	}
	g.Run(t, kvm.ExitIO)
	if diff := cmp.Diff(kvm.IO{Port: 0x80, Size: 2, Count: 1, Data: []byte{0x34, 0x12}}, g.VCPU.IO()); diff != "" {
		t.Errorf("second out (-want +got):\n%s", diff)
	}
	g.Run(t, kvm.ExitHLT)
}

func TestPortIn(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Protected, []byte{
		0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
		0xed, // in eax, dx
		0xf4, // hlt
	})
	g.Run(t, kvm.ExitIO)
	io := g.VCPU.IO()
	if diff := cmp.Diff(kvm.IO{Port: 0x600, In: true, Size: 4, Count: 1, Data: io.Data}, io); diff != "" {
		t.Fatalf("in (-want +got):\n%s", diff)
	}
	binary.LittleEndian.PutUint32(io.Data, 0xcafef00d)
	g.Run(t, kvm.ExitHLT)
	regs, err := g.VCPU.Regs()
	if err != nil || regs.RAX != 0xcafef00d {
		t.Errorf("rax %#x, %v, want 0xcafef00d", regs.RAX, err)
	}
}

// TestPortString is rep outsb: KVM may split it, and every byte must arrive once, in order.
func TestPortString(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x64, 0x00, // mov cx, 100
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xf3, 0x6e, // rep outsb
		0xe6, 0x80, // out 0x80, al
	})
	var want, got []byte
	for i := range 100 {
		want = append(want, byte(i+1))
	}
	copy(g.Mem[0x2000:], want)
	for len(got) <= len(want) {
		g.Run(t, kvm.ExitIO)
		io := g.VCPU.IO()
		if io.Port == 0x80 {
			break
		}
		if len(io.Data) != io.Size*io.Count {
			t.Fatalf("%d bytes of data for %d accesses of %d bytes", len(io.Data), io.Count, io.Size)
		}
		got = append(got, io.Data...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got % x\nwant % x", got, want)
	}
}

func TestMMIO(t *testing.T) {
	const addr = 0x300000 // beyond memory
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0xbb, 0x00, 0x00, 0x30, 0x00, // mov ebx, addr
		0x48, 0x8b, 0x03, // mov rax, [rbx]
		0x48, 0xff, 0xc0, // inc rax
		0x66, 0x89, 0x43, 0x08, // mov [rbx+8], ax
		0xf4, // hlt
	})
	g.Run(t, kvm.ExitMMIO)
	m := g.VCPU.MMIO()
	if diff := cmp.Diff(kvm.MMIO{Addr: addr, Data: m.Data}, m); diff != "" || len(m.Data) != 8 {
		t.Fatalf("read of %d bytes (-want +got):\n%s", len(m.Data), diff)
	}
	binary.LittleEndian.PutUint64(m.Data, 0x1122334455667788)
	g.Run(t, kvm.ExitMMIO)
	if diff := cmp.Diff(kvm.MMIO{Addr: addr + 8, Write: true, Data: []byte{0x89, 0x77}}, g.VCPU.MMIO()); diff != "" {
		t.Errorf("write (-want +got):\n%s", diff)
	}
	g.Run(t, kvm.ExitHLT)
}

func TestShutdown(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0x0f, 0x0b, // ud2, without an interrupt table: a triple fault
	})
	g.Run(t, kvm.ExitShutdown)
}

// TestInternalError runs code where there is no memory, which KVM cannot fetch.
func TestInternalError(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xf4})
	regs := kvm.Regs{RIP: 0xe000, RFLAGS: 2}
	sregs, err := g.VCPU.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	sregs.CS.Base, sregs.CS.Selector = 0xf0000, 0xf000
	if err := g.VM.SetUserMemoryRegion(0, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.VCPU.SetSregs(&sregs); err != nil {
		t.Fatal(err)
	}
	if err := g.VCPU.SetRegs(&regs); err != nil {
		t.Fatal(err)
	}
	g.Run(t, kvm.ExitInternalError)
	if e := g.VCPU.InternalError(); e.Suberror != kvm.InternalErrorEmulation {
		t.Errorf("suberror %d, want %d: %v", e.Suberror, kvm.InternalErrorEmulation, e)
	}
}

func TestInternalErrorText(t *testing.T) {
	for _, c := range []struct {
		name string
		e    kvm.InternalError
		want string
	}{
		{"no data", kvm.InternalError{Suberror: 1}, "KVM internal error: cannot emulate an instruction"},
		{
			"instruction bytes",
			kvm.InternalError{Suberror: 1, NData: 4, Data: [16]uint64{1, 0x10c70f_09, 0}},
			"KVM internal error: cannot emulate the instruction 0f c7 10 00 00 00 00 00 00",
		},
		{
			"a length that lies",
			kvm.InternalError{Suberror: 1, NData: 4, Data: [16]uint64{1, 0xff}},
			"KVM internal error: cannot emulate the instruction 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
		},
		{
			"delivery", kvm.InternalError{Suberror: 3, NData: 2, Data: [16]uint64{7, 8, 9}},
			"KVM internal error: unexpected exit while delivering an event [0x7 0x8]",
		},
		{
			"too much data", kvm.InternalError{Suberror: 9, NData: 1000},
			"KVM internal error: suberror 9, data [0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0]",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.e.Error(); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestExitReasonText(t *testing.T) {
	for r, want := range map[kvm.ExitReason]string{kvm.ExitMMIO: "KVM_EXIT_MMIO", 1234: "KVM exit reason 1234"} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestRunAllocatesNothing: an exit must not feed the garbage collector.
func TestRunAllocatesNothing(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{
		0xe6, 0x80, // out 0x80, al
		0xeb, 0xfc, // jmp back
	})
	var bytes int
	n := testing.AllocsPerRun(1000, func() {
		if _, err := g.VCPU.Run(); err == nil {
			bytes += len(g.VCPU.IO().Data)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per exit, want none", n)
	}
	if bytes < 900 {
		t.Errorf("%d exits, want about 1000", bytes)
	}
}

// TestMSRExits has this process answer for a model-specific register that KVM does not know, KVM API 7.21.
func TestMSRExits(t *testing.T) {
	const unknownMSR, exitOnUnknown = 0x12345, 1 << 1
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0xb9, 0x45, 0x23, 0x01, 0x00, // mov ecx, unknownMSR
		0x0f, 0x32, // rdmsr
		0xff, 0xc0, // inc eax
		0x0f, 0x30, // wrmsr
		0xf4,
	}, func(vm *kvm.VM) error { return vm.EnableCap(kvm.CapX86UserSpaceMSR, exitOnUnknown) })
	g.Run(t, kvm.ExitRDMSR)
	m := g.VCPU.MSR()
	if m.Index != unknownMSR || m.Reason != exitOnUnknown {
		t.Errorf("%+v, want a read of %#x", *m, unknownMSR)
	}
	m.Data = 7<<32 | 8
	g.Run(t, kvm.ExitWRMSR)
	if m := g.VCPU.MSR(); m.Index != unknownMSR || m.Data != 7<<32|9 {
		t.Errorf("%+v, want a write of 0x700000009 to %#x", *m, unknownMSR)
	}
	g.Run(t, kvm.ExitHLT)
}
