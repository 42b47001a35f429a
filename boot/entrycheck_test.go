package boot_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/entrycheck"
)

// tinyELF is a kernel of one segment with a 64-bit and a PVH entry.
func tinyELF() []byte {
	le := binary.LittleEndian
	const base, notes, text = 0x20_0000, 64 + 2*56, 64 + 2*56 + 20
	b := make([]byte, text+64)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[24:], base)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	for i, h := range [][4]uint64{{1, text, base, 64}, {4, notes, 0, 20}} {
		p := b[64+56*i:]
		le.PutUint32(p, uint32(h[0]))
		le.PutUint64(p[8:], h[1])
		le.PutUint64(p[24:], h[2])
		le.PutUint64(p[32:], h[3])
		le.PutUint64(p[40:], h[3])
	}
	for i, v := range []uint32{4, 4, 18, 0x6e6558 /* Xen */, base} {
		le.PutUint32(b[notes+4*i:], v)
	}
	return b
}

func kvmSegment(s boot.Segment) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type, S: s.S, DPL: s.DPL, Present: s.Present,
		AVL: s.AVL, L: s.L, DB: s.DB, G: s.G, Unusable: s.Unusable,
	}
}

// The states that Load returns pass the rules of VM entry, which Intel's processors apply to every bit of them.
func TestEntryStateIsValid(t *testing.T) {
	kernel := tinyELF()
	for _, p := range []boot.Protocol{boot.Linux64, boot.PVH} {
		e, err := boot.Load(guestmem.FromBytes(0, make([]byte, 4<<20)),
			boot.Config{Kernel: bytes.NewReader(kernel), KernelSize: int64(len(kernel)), CPUs: 1, Protocol: p})
		if err != nil {
			t.Fatal(err)
		}
		regs := kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RBX: e.RBX, RFLAGS: e.RFLAGS}
		sregs := kvm.Sregs{
			CS: kvmSegment(e.CS), DS: kvmSegment(e.DS), ES: kvmSegment(e.ES), FS: kvmSegment(e.FS), GS: kvmSegment(e.GS),
			SS: kvmSegment(e.SS), TR: kvmSegment(e.TR), LDT: kvmSegment(e.LDT),
			GDT: kvm.DTable{Base: e.GDT.Base, Limit: e.GDT.Limit}, IDT: kvm.DTable{Base: e.IDT.Base, Limit: e.IDT.Limit},
			CR0: e.CR0, CR3: e.CR3, CR4: e.CR4, EFER: e.EFER,
		}
		for _, unrestricted := range []bool{true, false} {
			host := entrycheck.Typical()
			host.UnrestrictedGuest = unrestricted
			if p == boot.PVH && !unrestricted {
				continue // KVM emulates unpaged protected mode there
			}
			for _, v := range entrycheck.Check(&regs, &sregs, host) {
				t.Errorf("%v, unrestricted guest %v: %v", p, unrestricted, v)
			}
		}
	}
}
