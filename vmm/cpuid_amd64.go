package vmm

import (
	"math/bits"

	"github.com/govmm/govmm/kvm"
)

// CPUID leaves and bits that govmm sets or clears; everything else is what KVM supports on this host.
const (
	leafFeatures     = 0x1
	leafCacheIntel   = 0x4
	leafPower        = 0x6
	leafPMU          = 0xa
	leafTopology     = 0xb
	leafTopologyV2   = 0x1f
	leafExtFeatures  = 0x8000_0001
	leafExtSizes     = 0x8000_0008
	leafTopologyAMD  = 0x8000_001e
	featVMX          = 1 << 5  // leaf 1 ECX
	featTSCDeadline  = 1 << 24 // leaf 1 ECX
	featHypervisor   = 1 << 31 // leaf 1 ECX
	featHTT          = 1 << 28 // leaf 1 EDX
	featARAT         = 1 << 2  // leaf 6 EAX
	featSVM          = 1 << 2  // leaf 0x80000001 ECX
	featCmpLegacy    = 1 << 1  // leaf 0x80000001 ECX
	featTopoExt      = 1 << 22 // leaf 0x80000001 ECX
	topologyLevelSMT = 1
	topologyCore     = 2
)

// cpuidFor returns the CPUID of CPU id out of n: what the host supports, a topology of n cores with one thread each in
// one package, and the timer features without which a guest calibrates against a PIT that is not there. Nested
// virtualisation and the PMU are left out: they are attack surface that containers do not use.
func cpuidFor(supported []kvm.CPUIDEntry, id, n int) []kvm.CPUIDEntry {
	out := make([]kvm.CPUIDEntry, 0, len(supported)+4)
	idBits := uint32(bits.Len(uint(n - 1))) // bits of an APIC id that tell cores apart
	for _, e := range supported {
		switch e.Function {
		case leafFeatures:
			setFeatures(&e, id, n)
		case leafCacheIntel:
			// Every cache belongs to one core; the package has n of them.
			e.EAX &= 0x3fff
			e.EAX |= uint32(1<<idBits-1) << 26
		case leafPower:
			e.EAX |= featARAT
		case leafPMU:
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		case leafTopology, leafTopologyV2:
			continue // rebuilt below
		case leafExtFeatures:
			e.ECX &^= featSVM | featCmpLegacy
			if n > 1 {
				e.ECX |= featCmpLegacy
			}
		case leafExtSizes:
			e.ECX = idBits<<12 | uint32(n-1)
		case leafTopologyAMD:
			e.EAX, e.EBX, e.ECX = uint32(id), uint32(id), 0
		}
		out = append(out, e)
	}
	return append(out, topology(id, n, idBits)...)
}

func setFeatures(e *kvm.CPUIDEntry, id, n int) {
	e.EBX = e.EBX&0x0000ffff | uint32(id)<<24 | uint32(n)<<16
	e.ECX |= featTSCDeadline | featHypervisor
	e.ECX &^= featVMX
	e.EDX &^= featHTT
	if n > 1 {
		e.EDX |= featHTT
	}
}

// topology is leaf 0xb: one thread a core, n cores.
func topology(id, n int, idBits uint32) []kvm.CPUIDEntry {
	levels := []kvm.CPUIDEntry{
		{EAX: 0, EBX: 1, ECX: topologyLevelSMT << 8},
		{EAX: idBits, EBX: uint32(n), ECX: topologyCore<<8 | 1},
		{ECX: 2},
	}
	for i := range levels {
		levels[i].Function, levels[i].Index = leafTopology, uint32(i)
		levels[i].Flags = kvm.CPUIDSignificantIndex
		levels[i].EDX = uint32(id)
	}
	return levels
}
