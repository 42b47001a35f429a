package kvm_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

const (
	keptAddr  = 0xd000_0064 // beyond memory
	otherAddr = 0xd000_0070
)

// storeCode is mov dword [addr], value.
func storeCode(addr, value uint32) []byte {
	code := binary.LittleEndian.AppendUint32([]byte{0xc7, 0x05}, addr)
	return binary.LittleEndian.AppendUint32(code, value)
}

// keeping returns a guest whose writes to four bytes at keptAddr are kept.
func keeping(t *testing.T, code []byte) (*kvmtest.Guest, *kvm.PostedWrites) {
	t.Helper()
	s := kvmtest.Open(t)
	page, err := s.CheckExtension(kvm.CapCoalescedMMIO)
	if err != nil || page == 0 {
		t.Fatalf("KVM_CAP_COALESCED_MMIO is %d, %v: every x86 host has it", page, err)
	}
	g := kvmtest.New(t, s, kvmtest.Protected, code, func(vm *kvm.VM) error { return vm.CoalesceMMIO(keptAddr, 4) })
	posted, err := g.VCPU.PostedWrites(page)
	if err != nil {
		t.Fatal(err)
	}
	return g, posted
}

func take(p *kvm.PostedWrites) (out []string) {
	p.Take(func(addr uint64, data []byte) { out = append(out, fmt.Sprintf("%#x: %x", addr, data)) })
	return out
}

// TestCoalesceMMIO: writes are kept in their order and do not end KVM_RUN; others do.
func TestCoalesceMMIO(t *testing.T) {
	code := storeCode(keptAddr, 1)
	code = append(code, storeCode(keptAddr, 0xaabbccdd)...)
	code = append(code, 0x66, 0xc7, 0x05, 0x66, 0, 0, 0xd0, 0x34, 0x12) // mov word [keptAddr+2], 0x1234
	code = append(code, storeCode(otherAddr, 2)...)
	code = append(code, storeCode(keptAddr, 3)...)
	code = append(code, storeCode(otherAddr, 4)...)
	g, posted := keeping(t, code)
	if got := take(posted); got != nil {
		t.Errorf("before the guest ran: %q", got)
	}
	want := []string{"0xd0000064: 01000000", "0xd0000064: ddccbbaa", "0xd0000066: 3412"}
	for i, value := range []byte{2, 4} {
		g.Run(t, kvm.ExitMMIO)
		if m := g.VCPU.MMIO(); m.Addr != otherAddr || m.Data[0] != value {
			t.Fatalf("exit by %#x, %x, want %#x, %d", m.Addr, m.Data, otherAddr, value)
		}
		if got := take(posted); !slices.Equal(got, want) {
			t.Errorf("exit %d: %q, want %q", i, got, want)
		}
		want = []string{"0xd0000064: 03000000"}
	}
	if got := take(posted); got != nil {
		t.Errorf("a second time: %q", got)
	}
	g.Close()
	if got := take(posted); got != nil {
		t.Errorf("of a vCPU that is closed: %q", got)
	}
	if _, err := g.VCPU.PostedWrites(2); err == nil {
		t.Error("of a vCPU that is closed: no error")
	}
}

// TestCoalesceMMIOFull: what there is no room for ends KVM_RUN, as does everything once the zone is gone; the ring goes round.
func TestCoalesceMMIOFull(t *testing.T) {
	loop := storeCode(keptAddr, 7)
	g, posted := keeping(t, append(loop, 0xeb, byte(-len(loop)-2))) // jmp back
	for range 3 {
		g.Run(t, kvm.ExitMMIO)
		if m := g.VCPU.MMIO(); m.Addr != keptAddr {
			t.Fatalf("exit by %#x", m.Addr)
		}
		got := take(posted)
		// Some kernels find the ring full with 85 at times.
		if len(got) < 80 || slices.ContainsFunc(got, func(s string) bool { return s != "0xd0000064: 07000000" }) {
			t.Fatalf("%d writes were kept: %q", len(got), got)
		}
	}
	if err := g.VM.RemoveCoalescedMMIO(keptAddr, 4); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g.Run(t, kvm.ExitMMIO)
	}
	if got := take(posted); len(got) > 0 {
		t.Errorf("kept although the zone is gone: %q", got)
	}
}

func TestPostedWritesPage(t *testing.T) {
	g, _ := keeping(t, []byte{0xf4})
	for _, page := range []int{-1, 0, 3, 1000} {
		if _, err := g.VCPU.PostedWrites(page); err == nil {
			t.Errorf("page %d: no error", page)
		}
	}
}
