package kvm_test

import (
	"os"
	"testing"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
	"github.com/govmm/govmm/testhost/need"
)

func TestDirtyRing(t *testing.T) {
	s := kvmtest.Open(t)
	most, err := s.CheckExtension(kvm.CapDirtyLogRing)
	if err != nil {
		t.Fatal(err)
	}
	if most == 0 {
		need.Lacking(t, need.DirtyRing, "a KVM with dirty rings")
	}
	size := os.Getpagesize()
	g := kvmtest.New(t, s, kvmtest.Long, []byte{
		0xc6, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00, 0x01, // mov byte [0x20000], 1
		0xc6, 0x04, 0x25, 0xff, 0x5f, 0x05, 0x00, 0x01, // mov byte [0x55fff], 1
		0xf4,
	}, func(vm *kvm.VM) error { return vm.EnableCap(kvm.CapDirtyLogRing, uint64(size)) })
	ring, err := g.VCPU.DirtyRing(size)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	if err := g.VM.SetUserMemoryRegion(0, kvm.MemLogDirtyPages, 0, g.Mem); err != nil {
		t.Fatal(err)
	}
	// Twice: the second time only shows the pages if they were given back. Then so often that the ring goes round.
	for lap := range 200 {
		if err := g.Reset(kvmtest.Long); err != nil {
			t.Fatal(err)
		}
		g.Run(t, kvm.ExitHLT)
		got := map[kvm.DirtyPage]bool{}
		n := 0
		for p, ok := ring.Next(); ok; p, ok = ring.Next() {
			got[p] = true
			n++
		}
		for _, want := range []uint64{0x20, 0x55} {
			if !got[kvm.DirtyPage{Page: want}] {
				t.Fatalf("lap %d: page %#x is not among %v", lap, want, got)
			}
		}
		if got[kvm.DirtyPage{Page: 0x21}] {
			t.Fatalf("lap %d: page 0x21 is among those written", lap)
		}
		if reset, err := g.VM.ResetDirtyRings(); err != nil || reset != n {
			t.Fatalf("lap %d: %d entries are back, %v, want %d", lap, reset, err, n)
		}
	}
}
