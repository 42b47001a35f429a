package kvm

// Cap is a capability: an argument of CheckExtension and EnableCap, KVM API 4.4, 4.37, 6 and 7.
type Cap int

// The capabilities that a VMM on x86 asks for.
const (
	CapIRQChip                  Cap = 0   // KVM_CAP_IRQCHIP
	CapHLT                      Cap = 1   // KVM_CAP_HLT
	CapUserMemory               Cap = 3   // KVM_CAP_USER_MEMORY
	CapSetTSSAddr               Cap = 4   // KVM_CAP_SET_TSS_ADDR
	CapExtCPUID                 Cap = 7   // KVM_CAP_EXT_CPUID
	CapClockSource              Cap = 8   // KVM_CAP_CLOCKSOURCE
	CapNrVCPUs                  Cap = 9   // KVM_CAP_NR_VCPUS
	CapNrMemslots               Cap = 10  // KVM_CAP_NR_MEMSLOTS
	CapNopIODelay               Cap = 12  // KVM_CAP_NOP_IO_DELAY
	CapMPState                  Cap = 14  // KVM_CAP_MP_STATE
	CapCoalescedMMIO            Cap = 15  // KVM_CAP_COALESCED_MMIO
	CapSyncMMU                  Cap = 16  // KVM_CAP_SYNC_MMU
	CapDestroyMemoryRegionWorks Cap = 21  // KVM_CAP_DESTROY_MEMORY_REGION_WORKS
	CapUserNMI                  Cap = 22  // KVM_CAP_USER_NMI
	CapSetGuestDebug            Cap = 23  // KVM_CAP_SET_GUEST_DEBUG
	CapReinjectControl          Cap = 24  // KVM_CAP_REINJECT_CONTROL
	CapIRQRouting               Cap = 25  // KVM_CAP_IRQ_ROUTING
	CapJoinMemoryRegionsWorks   Cap = 30  // KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
	CapMCE                      Cap = 31  // KVM_CAP_MCE
	CapIRQFD                    Cap = 32  // KVM_CAP_IRQFD
	CapPIT2                     Cap = 33  // KVM_CAP_PIT2
	CapSetBootCPUID             Cap = 34  // KVM_CAP_SET_BOOT_CPU_ID
	CapPITState2                Cap = 35  // KVM_CAP_PIT_STATE2
	CapIOEventFD                Cap = 36  // KVM_CAP_IOEVENTFD
	CapSetIdentityMapAddr       Cap = 37  // KVM_CAP_SET_IDENTITY_MAP_ADDR
	CapAdjustClock              Cap = 39  // KVM_CAP_ADJUST_CLOCK
	CapInternalErrorData        Cap = 40  // KVM_CAP_INTERNAL_ERROR_DATA
	CapVCPUEvents               Cap = 41  // KVM_CAP_VCPU_EVENTS
	CapIntrShadow               Cap = 49  // KVM_CAP_INTR_SHADOW
	CapDebugRegs                Cap = 50  // KVM_CAP_DEBUGREGS
	CapX86RobustSinglestep      Cap = 51  // KVM_CAP_X86_ROBUST_SINGLESTEP
	CapEnableCap                Cap = 54  // KVM_CAP_ENABLE_CAP
	CapXsave                    Cap = 55  // KVM_CAP_XSAVE
	CapXCRs                     Cap = 56  // KVM_CAP_XCRS
	CapAsyncPF                  Cap = 59  // KVM_CAP_ASYNC_PF
	CapTSCControl               Cap = 60  // KVM_CAP_TSC_CONTROL
	CapGetTSCKHz                Cap = 61  // KVM_CAP_GET_TSC_KHZ
	CapMaxVCPUs                 Cap = 66  // KVM_CAP_MAX_VCPUS
	CapTSCDeadlineTimer         Cap = 72  // KVM_CAP_TSC_DEADLINE_TIMER
	CapSyncRegs                 Cap = 74  // KVM_CAP_SYNC_REGS
	CapKVMClockCtrl             Cap = 76  // KVM_CAP_KVMCLOCK_CTRL
	CapSignalMSI                Cap = 77  // KVM_CAP_SIGNAL_MSI
	CapReadonlyMem              Cap = 81  // KVM_CAP_READONLY_MEM
	CapIRQFDResample            Cap = 82  // KVM_CAP_IRQFD_RESAMPLE
	CapExtEmulCPUID             Cap = 95  // KVM_CAP_EXT_EMUL_CPUID
	CapEnableCapVM              Cap = 98  // KVM_CAP_ENABLE_CAP_VM
	CapIOEventFDNoLength        Cap = 100 // KVM_CAP_IOEVENTFD_NO_LENGTH
	CapCheckExtensionVM         Cap = 105 // KVM_CAP_CHECK_EXTENSION_VM
	CapDisableQuirks            Cap = 116 // KVM_CAP_DISABLE_QUIRKS
	CapX86SMM                   Cap = 117 // KVM_CAP_X86_SMM
	CapSplitIRQChip             Cap = 121 // KVM_CAP_SPLIT_IRQCHIP
	CapIOEventFDAnyLength       Cap = 122 // KVM_CAP_IOEVENTFD_ANY_LENGTH
	CapVCPUAttributes           Cap = 127 // KVM_CAP_VCPU_ATTRIBUTES
	CapMaxVCPUID                Cap = 128 // KVM_CAP_MAX_VCPU_ID
	CapX2APICAPI                Cap = 129 // KVM_CAP_X2APIC_API
	CapImmediateExit            Cap = 136 // KVM_CAP_IMMEDIATE_EXIT
	CapX86DisableExits          Cap = 143 // KVM_CAP_X86_DISABLE_EXITS
	CapGetMSRFeatures           Cap = 153 // KVM_CAP_GET_MSR_FEATURES
	CapNestedState              Cap = 157 // KVM_CAP_NESTED_STATE
	CapMSRPlatformInfo          Cap = 159 // KVM_CAP_MSR_PLATFORM_INFO
	CapCoalescedPIO             Cap = 162 // KVM_CAP_COALESCED_PIO
	CapExceptionPayload         Cap = 164 // KVM_CAP_EXCEPTION_PAYLOAD
	CapManualDirtyLogProtect2   Cap = 168 // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
	CapPMUEventFilter           Cap = 173 // KVM_CAP_PMU_EVENT_FILTER
	CapHaltPoll                 Cap = 182 // KVM_CAP_HALT_POLL
	CapAsyncPFInt               Cap = 183 // KVM_CAP_ASYNC_PF_INT
	CapSmallerMaxPhyAddr        Cap = 185 // KVM_CAP_SMALLER_MAXPHYADDR
	CapStealTime                Cap = 187 // KVM_CAP_STEAL_TIME
	CapX86UserSpaceMSR          Cap = 188 // KVM_CAP_X86_USER_SPACE_MSR
	CapX86MSRFilter             Cap = 189 // KVM_CAP_X86_MSR_FILTER
	CapEnforcePVFeatureCPUID    Cap = 190 // KVM_CAP_ENFORCE_PV_FEATURE_CPUID
	CapDirtyLogRing             Cap = 192 // KVM_CAP_DIRTY_LOG_RING
	CapX86BusLockExit           Cap = 193 // KVM_CAP_X86_BUS_LOCK_EXIT
	CapPTPKVM                   Cap = 198 // KVM_CAP_PTP_KVM
	CapSregs2                   Cap = 200 // KVM_CAP_SREGS2
	CapExitHypercall            Cap = 201 // KVM_CAP_EXIT_HYPERCALL
	CapBinaryStatsFD            Cap = 203 // KVM_CAP_BINARY_STATS_FD
	CapExitOnEmulationFailure   Cap = 204 // KVM_CAP_EXIT_ON_EMULATION_FAILURE
	CapVMGPABits                Cap = 207 // KVM_CAP_VM_GPA_BITS
	CapXsave2                   Cap = 208 // KVM_CAP_XSAVE2
	CapSysAttributes            Cap = 209 // KVM_CAP_SYS_ATTRIBUTES
	CapPMUCapability            Cap = 212 // KVM_CAP_PMU_CAPABILITY
	CapDisableQuirks2           Cap = 213 // KVM_CAP_DISABLE_QUIRKS2
	CapVMTSCControl             Cap = 214 // KVM_CAP_VM_TSC_CONTROL
	CapSystemEventData          Cap = 215 // KVM_CAP_SYSTEM_EVENT_DATA
	CapX86TripleFaultEvent      Cap = 218 // KVM_CAP_X86_TRIPLE_FAULT_EVENT
	CapX86NotifyVMExit          Cap = 219 // KVM_CAP_X86_NOTIFY_VMEXIT
	CapDirtyLogRingAcqRel       Cap = 223 // KVM_CAP_DIRTY_LOG_RING_ACQ_REL
)

// PMUDisable is the argument of CapPMUCapability that leaves a VM without performance counters, KVM API 8.35. Before its
// first vCPU.
const PMUDisable = 1 << 0

// What CapX86DisableExits can switch off, KVM API 7.13: the instruction then no longer leaves the guest.
const (
	DisableExitsMWAIT  = 1 << 0
	DisableExitsHLT    = 1 << 1
	DisableExitsPAUSE  = 1 << 2
	DisableExitsCState = 1 << 3
)

// Arguments of CapX2APICAPI, KVM API 7.7: without them APIC ids above 254 do not work.
const (
	X2APICUse32BitIDs           = 1 << 0
	X2APICDisableBroadcastQuirk = 1 << 1
)

// Arguments of CapManualDirtyLogProtect2, KVM API 7.18.
const (
	DirtyLogManualProtectEnable = 1 << 0
	DirtyLogInitiallySet        = 1 << 1
)
