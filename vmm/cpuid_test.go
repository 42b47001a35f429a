package vmm_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/vmm"
)

var ignorePadding = cmpopts.IgnoreUnexported(kvm.CPUIDEntry{})

func leaf(t *testing.T, leaves []kvm.CPUIDEntry, function, index uint32) kvm.CPUIDEntry {
	t.Helper()
	for _, e := range leaves {
		if e.Function == function && e.Index == index {
			return e
		}
	}
	t.Fatalf("no leaf %#x, %d", function, index)
	return kvm.CPUIDEntry{}
}

// host is what KVM may report on a machine with two threads per core that has everything.
func host(vendor uint32) []kvm.CPUIDEntry {
	all := func(function, index uint32) kvm.CPUIDEntry {
		return kvm.CPUIDEntry{Function: function, Index: index, EAX: ^uint32(0), EBX: ^uint32(0), ECX: ^uint32(0), EDX: ^uint32(0)}
	}
	cache := func(function, index, eax uint32) kvm.CPUIDEntry {
		return kvm.CPUIDEntry{Function: function, Index: index, Flags: kvm.CPUIDSignificantIndex, EAX: eax, EBX: 0x01c0003f}
	}
	return []kvm.CPUIDEntry{
		{Function: kvm.CPUIDVendor, EAX: 0x23, EBX: vendor},
		all(kvm.CPUIDFeatures, 0),
		cache(kvm.CPUIDCache, 0, 0x1c004121), cache(kvm.CPUIDCache, 1, 0),
		all(kvm.CPUIDPower, 0), all(kvm.CPUIDExtFeatures, 0), all(kvm.CPUIDExtFeatures, 1),
		all(kvm.CPUIDPMU, 0), all(kvm.CPUIDTopology, 0), all(kvm.CPUIDTopology, 1),
		all(kvm.CPUIDXsave, 0), all(kvm.CPUIDSGX, 0), all(kvm.CPUIDTrace, 0), all(kvm.CPUIDLastBranch, 0),
		all(kvm.CPUIDTopologyV2, 0), all(kvm.CPUIDPMUV2, 0),
		all(kvm.CPUIDExtended, 0), all(kvm.CPUIDAddressSizes, 0), all(kvm.CPUIDSVM, 0),
		cache(kvm.CPUIDAMDCache, 0, 0x4121), all(kvm.CPUIDAMDTopology, 0), all(kvm.CPUIDEncryptMemory, 0), all(kvm.CPUIDAMDPMU, 0),
		{Function: kvm.CPUIDKVMSignature, EAX: kvm.CPUIDKVMFeatures, EBX: 0x4b4d564b},
		{Function: kvm.CPUIDKVMFeatures, EAX: 0x01007efb},
	}
}

func TestCPUIDTopology(t *testing.T) {
	const intel = 0x756e6547
	for _, c := range []struct {
		vendor uint32
		id, n  int
		bits   uint32 // of an APIC id
		cores  uint32 // leaf 4, EAX[31:26]
	}{
		{intel, 0, 1, 0, 0}, {intel, 1, 2, 1, 1}, {intel, 2, 3, 2, 3}, {intel, 3, 4, 2, 3}, {intel, 4, 5, 3, 7},
		{intel, 63, 64, 6, 63}, {intel, 253, 254, 8, 63},
		{kvm.CPUIDVendorAMD, 0, 1, 0, 0}, {kvm.CPUIDVendorAMD, 3, 4, 2, 3}, {kvm.CPUIDVendorHygon, 253, 254, 8, 63},
	} {
		got := vmm.CPUIDFor(host(c.vendor), c.id, c.n)
		id, n, smp, amd := uint32(c.id), uint32(c.n), c.n > 1, c.vendor != intel
		features := leaf(t, got, kvm.CPUIDFeatures, 0)
		if features.EBX>>24 != id || features.EBX>>16&0xff != n || features.EDX&kvm.CPUID1EDXHTT != 0 != smp {
			t.Errorf("%d of %d: leaf 1 %+v", id, n, features)
		}
		// One thread a core: none of the ids' bits tells threads apart, all of them tell cores apart.
		const thread, core = 1 << 8, 2<<8 | 1
		for i, want := range []kvm.CPUIDEntry{{EBX: 1, ECX: thread}, {EAX: c.bits, EBX: n, ECX: core}, {ECX: 2}} {
			want.Function, want.Index, want.Flags, want.EDX = kvm.CPUIDTopology, uint32(i), kvm.CPUIDSignificantIndex, id
			if diff := cmp.Diff(want, leaf(t, got, kvm.CPUIDTopology, want.Index), ignorePadding); diff != "" {
				t.Errorf("%d of %d: leaf 0xb (-want +got):\n%s", id, n, diff)
			}
		}
		if e := leaf(t, got, kvm.CPUIDCache, 0).EAX; e != c.cores<<26|0x121 {
			t.Errorf("%d of %d: leaf 4 %#x, want caches of one core, %d cores", id, n, e, c.cores+1)
		}
		if e := leaf(t, got, kvm.CPUIDCache, 1); e.EAX != 0 {
			t.Errorf("leaf 4 has a cache that there is not: %+v", e)
		}
		if e := leaf(t, got, kvm.CPUIDAMDCache, 0).EAX; e != 0x121 {
			t.Errorf("leaf 0x8000001d %#x, want caches of one core", e)
		}
		if e := leaf(t, got, kvm.CPUIDExtended, 0); e.ECX&kvm.CPUIDExtendedECXCMPLegacy != 0 != (smp && amd) {
			t.Errorf("%d of %d, vendor %#x: leaf 0x80000001 ECX %#x", id, n, c.vendor, e.ECX)
		}
		if e := leaf(t, got, kvm.CPUIDAddressSizes, 0); amd && e.ECX != c.bits<<12|(n-1) {
			t.Errorf("%d of %d: leaf 0x80000008 ECX %#x", id, n, e.ECX)
		}
		if e := leaf(t, got, kvm.CPUIDAMDTopology, 0); e.EAX != id || e.EBX != id || e.ECX != 0 {
			t.Errorf("%d of %d: leaf 0x8000001e %+v", id, n, e)
		}
		for _, e := range got {
			if e.Function == kvm.CPUIDTopologyV2 || e.Function == kvm.CPUIDTopology && e.EAX == ^uint32(0) {
				t.Errorf("the host's topology is left: %+v", e)
			}
		}
	}
}

func TestCPUIDHides(t *testing.T) {
	in := host(kvm.CPUIDVendorAMD)
	got := vmm.CPUIDFor(in, 0, 2)
	for _, function := range []uint32{
		kvm.CPUIDPMU, kvm.CPUIDSGX, kvm.CPUIDTrace, kvm.CPUIDLastBranch, kvm.CPUIDPMUV2, kvm.CPUIDSVM,
		kvm.CPUIDEncryptMemory, kvm.CPUIDAMDPMU,
	} {
		if diff := cmp.Diff(kvm.CPUIDEntry{Function: function}, leaf(t, got, function, 0), ignorePadding); diff != "" {
			t.Errorf("leaf %#x (-want +got):\n%s", function, diff)
		}
	}
	ecx := ^leaf(t, got, kvm.CPUIDFeatures, 0).ECX
	if ecx != kvm.CPUID1ECXVMX|kvm.CPUID1ECXDTES64|kvm.CPUID1ECXPDCM {
		t.Errorf("leaf 1 ECX lacks %#x", ecx)
	}
	if ecx := ^leaf(t, got, kvm.CPUIDExtended, 0).ECX; ecx != 1<<2|1<<23|1<<24|1<<28 {
		t.Errorf("leaf 0x80000001 ECX lacks %#x", ecx)
	}
	// What is left alone: sub-leaf 1 of leaf 7, XSAVE's leaf, KVM's own.
	for _, e := range in {
		if e.Function == kvm.CPUIDXsave || e.Function>>28 == 4 || e.Function == kvm.CPUIDExtFeatures && e.Index == 1 {
			if diff := cmp.Diff(e, leaf(t, got, e.Function, e.Index), ignorePadding); diff != "" {
				t.Errorf("leaf %#x (-want +got):\n%s", e.Function, diff)
			}
		}
	}
	if in[1].ECX != ^uint32(0) {
		t.Error("the host's table was written to")
	}
}

// TestCPUIDHasTheTimer: whatever KVM says it supports, a guest finds the timers that it needs.
func TestCPUIDHasTheTimer(t *testing.T) {
	got := vmm.CPUIDFor([]kvm.CPUIDEntry{{Function: kvm.CPUIDFeatures}, {Function: kvm.CPUIDPower}}, 0, 1)
	if ecx := leaf(t, got, kvm.CPUIDFeatures, 0).ECX; ecx != kvm.CPUID1ECXTSCDeadline|kvm.CPUID1ECXHypervisor {
		t.Errorf("leaf 1 ECX %#x", ecx)
	}
	if eax := leaf(t, got, kvm.CPUIDPower, 0).EAX; eax != kvm.CPUID6EAXARAT {
		t.Errorf("leaf 6 EAX %#x", eax)
	}
}
