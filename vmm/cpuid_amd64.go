package vmm

import (
	"math/bits"
	"slices"

	"github.com/govmm/govmm/kvm"
)

// hidden are leaves whose features guests do not get, whatever the host has: attack surface that containers do not use
// (nested virtualisation, performance counters, tracing) and what would need set-up that there is none of (enclaves,
// encrypted memory: a guest that sees it reads an MSR that KVM gives to encrypted guests only).
var hidden = []uint32{
	kvm.CPUIDPMU, kvm.CPUIDSGX, kvm.CPUIDTrace, kvm.CPUIDLastBranch, kvm.CPUIDPMUV2,
	kvm.CPUIDSVM, kvm.CPUIDEncryptMemory, kvm.CPUIDAMDPMU,
}

// cpuidFor returns the CPUID of CPU id out of n: what the host supports less what is hidden, a topology of n cores with
// one thread each in one package, and the timer features without which a guest calibrates against a PIT that is not there.
func cpuidFor(supported []kvm.CPUIDEntry, id, n int) []kvm.CPUIDEntry {
	out := make([]kvm.CPUIDEntry, 0, len(supported)+4)
	idBits := uint32(bits.Len(uint(n - 1))) // bits of an APIC id that tell cores apart
	amd := isAMD(supported)
	for _, e := range supported {
		switch e.Function {
		case kvm.CPUIDFeatures:
			setFeatures(&e, id, n)
		case kvm.CPUIDCache, kvm.CPUIDAMDCache:
			setCache(&e, idBits)
		case kvm.CPUIDPower:
			e.EAX |= kvm.CPUID6EAXARAT
		case kvm.CPUIDExtFeatures:
			hideExtFeatures(&e)
		case kvm.CPUIDTopology, kvm.CPUIDTopologyV2:
			continue // rebuilt below
		case kvm.CPUIDExtended:
			setExtended(&e, amd && n > 1)
		case kvm.CPUIDAddressSizes:
			if amd {
				e.ECX = idBits<<12 | uint32(n-1)
			}
		case kvm.CPUIDAMDTopology:
			e.EAX, e.EBX, e.ECX = uint32(id), uint32(id), 0
		}
		if slices.Contains(hidden, e.Function) {
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		}
		out = append(out, e)
	}
	return append(out, topology(id, n, idBits)...)
}

func isAMD(supported []kvm.CPUIDEntry) bool {
	return slices.ContainsFunc(supported, func(e kvm.CPUIDEntry) bool {
		return e.Function == kvm.CPUIDVendor && (e.EBX == kvm.CPUIDVendorAMD || e.EBX == kvm.CPUIDVendorHygon)
	})
}

func setFeatures(e *kvm.CPUIDEntry, id, n int) {
	e.EBX = e.EBX&0x0000ffff | uint32(id)<<24 | uint32(n)<<16
	e.ECX |= kvm.CPUID1ECXTSCDeadline | kvm.CPUID1ECXHypervisor
	e.ECX &^= kvm.CPUID1ECXVMX | kvm.CPUID1ECXDTES64 | kvm.CPUID1ECXPDCM
	e.EDX &^= kvm.CPUID1EDXHTT | kvm.CPUID1EDXDS
	if n > 1 {
		e.EDX |= kvm.CPUID1EDXHTT
	}
}

// setCache gives each core caches of its own. On Intel the package has as many cores as ids, of which the field can tell
// 64; who has more looks at leaf 0xb.
func setCache(e *kvm.CPUIDEntry, idBits uint32) {
	const cacheType, sharers = 0x1f, 0xfff << 14
	if e.EAX&cacheType == 0 {
		return // there is no such cache
	}
	e.EAX &^= sharers
	if e.Function == kvm.CPUIDCache {
		e.EAX = e.EAX&0x3fff | (1<<min(idBits, 6)-1)<<26
	}
}

func hideExtFeatures(e *kvm.CPUIDEntry) {
	if e.Index == 0 {
		e.EBX &^= kvm.CPUID7EBXSGX | kvm.CPUID7EBXTrace
		e.ECX &^= kvm.CPUID7ECXSGXLaunch
		e.EDX &^= kvm.CPUID7EDXLastBranch
	}
}

// setExtended sets CmpLegacy, "the siblings are cores", on AMD's processors only: elsewhere the bit is reserved.
func setExtended(e *kvm.CPUIDEntry, cmpLegacy bool) {
	e.ECX &^= kvm.CPUIDExtendedECXSVM | kvm.CPUIDExtendedECXCMPLegacy |
		kvm.CPUIDExtendedECXPerfCore | kvm.CPUIDExtendedECXPerfNB | kvm.CPUIDExtendedECXPerfL3
	if cmpLegacy {
		e.ECX |= kvm.CPUIDExtendedECXCMPLegacy
	}
}

// topology is leaf 0xb: one thread a core, n cores.
func topology(id, n int, idBits uint32) []kvm.CPUIDEntry {
	const levelThread, levelCore = 1, 2
	levels := []kvm.CPUIDEntry{
		{EAX: 0, EBX: 1, ECX: levelThread << 8},
		{EAX: idBits, EBX: uint32(n), ECX: levelCore<<8 | 1},
		{ECX: 2},
	}
	for i := range levels {
		levels[i].Function, levels[i].Index = kvm.CPUIDTopology, uint32(i)
		levels[i].Flags = kvm.CPUIDSignificantIndex
		levels[i].EDX = uint32(id)
	}
	return levels
}
