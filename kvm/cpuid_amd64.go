package kvm

// CPUID leaves, Intel SDM vol. 2 CPUID and AMD APM vol. 3 appendix E.
const (
	CPUIDVendor        = 0x0
	CPUIDFeatures      = 0x1
	CPUIDCache         = 0x4
	CPUIDMwait         = 0x5
	CPUIDPower         = 0x6
	CPUIDExtFeatures   = 0x7
	CPUIDPMU           = 0xa
	CPUIDTopology      = 0xb
	CPUIDXsave         = 0xd
	CPUIDSGX           = 0x12
	CPUIDTrace         = 0x14
	CPUIDTSC           = 0x15
	CPUIDFrequency     = 0x16
	CPUIDLastBranch    = 0x1c
	CPUIDTopologyV2    = 0x1f
	CPUIDPMUV2         = 0x23
	CPUIDExtVendor     = 0x80000000
	CPUIDExtended      = 0x80000001
	CPUIDBrand         = 0x80000002 // and the next two
	CPUIDAPM           = 0x80000007
	CPUIDAddressSizes  = 0x80000008
	CPUIDSVM           = 0x8000000a
	CPUIDAMDCache      = 0x8000001d
	CPUIDAMDTopology   = 0x8000001e
	CPUIDEncryptMemory = 0x8000001f
	CPUIDAMDPMU        = 0x80000022
)

// KVM's paravirtual leaves, Documentation/virt/kvm/x86/cpuid.rst.
const (
	CPUIDKVMSignature = 0x40000000
	CPUIDKVMFeatures  = 0x40000001
)

// Vendors, as EBX of CPUIDVendor has them.
const (
	CPUIDVendorAMD   = 0x68747541 // "Auth"
	CPUIDVendorHygon = 0x6f677948 // "Hygo"
)

// Feature bits of CPUIDFeatures.
const (
	CPUID1ECXDTES64      = 1 << 2
	CPUID1ECXMonitor     = 1 << 3
	CPUID1ECXVMX         = 1 << 5
	CPUID1ECXCX16        = 1 << 13
	CPUID1ECXPDCM        = 1 << 15
	CPUID1ECXPCID        = 1 << 17
	CPUID1ECXX2APIC      = 1 << 21
	CPUID1ECXTSCDeadline = 1 << 24
	CPUID1ECXXsave       = 1 << 26
	CPUID1ECXOSXsave     = 1 << 27
	CPUID1ECXHypervisor  = 1 << 31
	CPUID1EDXTSC         = 1 << 4
	CPUID1EDXAPIC        = 1 << 9
	CPUID1EDXMTRR        = 1 << 12
	CPUID1EDXDS          = 1 << 21
	CPUID1EDXHTT         = 1 << 28
)

// Feature bits of other leaves, named after them.
const (
	CPUID6EAXARAT              = 1 << 2 // the local APIC timer runs in every sleep state
	CPUID6ECXEPB               = 1 << 3 // IA32_ENERGY_PERF_BIAS exists
	CPUID7EBXSGX               = 1 << 2
	CPUID7EBXTrace             = 1 << 25
	CPUID7ECXSGXLaunch         = 1 << 30
	CPUID7EDXLastBranch        = 1 << 19
	CPUID7EDXArchCapabilities  = 1 << 29 // MSRArchCapabilities exists
	CPUIDExtendedECXCMPLegacy  = 1 << 1
	CPUIDExtendedECXSVM        = 1 << 2
	CPUIDExtendedECXTopology   = 1 << 22
	CPUIDExtendedECXPerfCore   = 1 << 23
	CPUIDExtendedECXPerfNB     = 1 << 24
	CPUIDExtendedECXPerfL3     = 1 << 28
	CPUIDExtendedEDXLongMode   = 1 << 29
	CPUIDAPMEDXInvariantTSC    = 1 << 8
	CPUIDKVMFeatureClockSource = 1 << 0
	CPUIDKVMFeatureNopIODelay  = 1 << 1
	CPUIDKVMFeatureClock2      = 1 << 3
	CPUIDKVMFeatureAsyncPF     = 1 << 4
	CPUIDKVMFeatureStealTime   = 1 << 5
	CPUIDKVMFeaturePVEOI       = 1 << 6
	CPUIDKVMFeaturePVUnhalt    = 1 << 7
	CPUIDKVMFeaturePVTLBFlush  = 1 << 9
	CPUIDKVMFeatureAsyncPFVMX  = 1 << 10
	CPUIDKVMFeaturePVSendIPI   = 1 << 11
	CPUIDKVMFeaturePollControl = 1 << 12
	CPUIDKVMFeaturePVSchedYld  = 1 << 13
	CPUIDKVMFeatureAsyncPFInt  = 1 << 14
	CPUIDKVMFeatureMSIExtDest  = 1 << 15
	CPUIDKVMFeatureClockStable = 1 << 24
	CPUIDKVMHintsRealtime      = 1 << 0 // in EDX: the vCPUs are never preempted
)
