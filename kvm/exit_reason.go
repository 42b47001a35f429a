package kvm

import "strconv"

func (r ExitReason) String() string {
	// A switch, not a map: a map would be built at every start of the program.
	switch r {
	case ExitUnknown:
		return "KVM_EXIT_UNKNOWN"
	case ExitException:
		return "KVM_EXIT_EXCEPTION"
	case ExitIO:
		return "KVM_EXIT_IO"
	case ExitHypercall:
		return "KVM_EXIT_HYPERCALL"
	case ExitDebug:
		return "KVM_EXIT_DEBUG"
	case ExitHLT:
		return "KVM_EXIT_HLT"
	case ExitMMIO:
		return "KVM_EXIT_MMIO"
	case ExitIRQWindowOpen:
		return "KVM_EXIT_IRQ_WINDOW_OPEN"
	case ExitShutdown:
		return "KVM_EXIT_SHUTDOWN"
	case ExitFailEntry:
		return "KVM_EXIT_FAIL_ENTRY"
	case ExitIntr:
		return "KVM_EXIT_INTR"
	case ExitSetTPR:
		return "KVM_EXIT_SET_TPR"
	case ExitTPRAccess:
		return "KVM_EXIT_TPR_ACCESS"
	case ExitNMI:
		return "KVM_EXIT_NMI"
	case ExitInternalError:
		return "KVM_EXIT_INTERNAL_ERROR"
	case ExitSystemEvent:
		return "KVM_EXIT_SYSTEM_EVENT"
	case ExitIOAPICEOI:
		return "KVM_EXIT_IOAPIC_EOI"
	case ExitRDMSR:
		return "KVM_EXIT_X86_RDMSR"
	case ExitWRMSR:
		return "KVM_EXIT_X86_WRMSR"
	case ExitDirtyRingFull:
		return "KVM_EXIT_DIRTY_RING_FULL"
	case ExitBusLock:
		return "KVM_EXIT_X86_BUS_LOCK"
	case ExitNotify:
		return "KVM_EXIT_NOTIFY"
	case ExitMemoryFault:
		return "KVM_EXIT_MEMORY_FAULT"
	}
	return "KVM exit reason " + strconv.FormatUint(uint64(r), 10)
}
