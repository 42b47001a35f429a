package kvm

import (
	"reflect"
	"testing"
)

// layouts is what a C program over <linux/kvm.h> (Linux 6.1, x86-64) printed: size and field offsets in bytes.
var layouts = []struct {
	value   any
	size    uintptr
	offsets map[string]uintptr
}{
	{enableCapArg{}, 104, map[string]uintptr{"Cap": 0, "Flags": 4, "Args": 8}},                                                      // struct kvm_enable_cap
	{userMemoryRegion{}, 32, map[string]uintptr{"Slot": 0, "Flags": 4, "GuestPhysAddr": 8, "MemorySize": 16, "UserspaceAddr": 24}},  // struct kvm_userspace_memory_region
	{dirtyLog{}, 16, map[string]uintptr{"Slot": 0, "Bitmap": 8}},                                                                    // struct kvm_dirty_log
	{clearDirtyLog{}, 24, map[string]uintptr{"Slot": 0, "NumPages": 4, "FirstPage": 8, "Bitmap": 16}},                               // struct kvm_clear_dirty_log
	{irqLevel{}, 8, map[string]uintptr{"IRQ": 0, "Level": 4}},                                                                       // struct kvm_irq_level
	{irqfd{}, 32, map[string]uintptr{"FD": 0, "GSI": 4, "Flags": 8, "ResampleFD": 12}},                                              // struct kvm_irqfd
	{ioeventfd{}, 64, map[string]uintptr{"Datamatch": 0, "Addr": 8, "Len": 16, "FD": 20, "Flags": 24}},                              // struct kvm_ioeventfd
	{msi{}, 32, map[string]uintptr{"AddressLo": 0, "AddressHi": 4, "Data": 8, "Flags": 12, "DevID": 16}},                            // struct kvm_msi
	{deviceAttr{}, 24, map[string]uintptr{"Flags": 0, "Group": 4, "Attr": 8, "Addr": 16}},                                           // struct kvm_device_attr
	{dirtyGFN{}, 16, map[string]uintptr{"Flags": 0, "Slot": 4, "Offset": 8}},                                                        // struct kvm_dirty_gfn
	{ClockData{}, 48, map[string]uintptr{"Clock": 0, "Flags": 8, "Realtime": 16, "HostTSC": 24}},                                    // struct kvm_clock_data
	{Translation{}, 24, map[string]uintptr{"LinearAddress": 0, "PhysicalAddress": 8, "Valid": 16, "Writeable": 17, "Usermode": 18}}, // struct kvm_translation
	{RoutingEntry{}, 48, map[string]uintptr{"GSI": 0, "Type": 4, "Flags": 8, "Data": 16}},                                           // struct kvm_irq_routing_entry
	{Regs{}, 144, map[string]uintptr{"RAX": 0, "RBX": 8, "RCX": 16, "RDX": 24, "RSI": 32, "RDI": 40, "RSP": 48, "RBP": 56, "R8": 64, "R9": 72, "R10": 80, "R11": 88, "R12": 96, "R13": 104, "R14": 112, "R15": 120, "RIP": 128, "RFLAGS": 136}}, // struct kvm_regs
	{Segment{}, 24, map[string]uintptr{"Base": 0, "Limit": 8, "Selector": 12, "Type": 14, "Present": 15, "DPL": 16, "DB": 17, "S": 18, "L": 19, "G": 20, "AVL": 21, "Unusable": 22}},                                                            // struct kvm_segment
	{DTable{}, 16, map[string]uintptr{"Base": 0, "Limit": 8}}, // struct kvm_dtable
	{Sregs{}, 312, map[string]uintptr{"CS": 0, "DS": 24, "ES": 48, "FS": 72, "GS": 96, "SS": 120, "TR": 144, "LDT": 168, "GDT": 192, "IDT": 208, "CR0": 224, "CR2": 232, "CR3": 240, "CR4": 248, "CR8": 256, "EFER": 264, "APICBase": 272, "InterruptBitmap": 280}},       // struct kvm_sregs
	{Sregs2{}, 320, map[string]uintptr{"CS": 0, "DS": 24, "ES": 48, "FS": 72, "GS": 96, "SS": 120, "TR": 144, "LDT": 168, "GDT": 192, "IDT": 208, "CR0": 224, "CR2": 232, "CR3": 240, "CR4": 248, "CR8": 256, "EFER": 264, "APICBase": 272, "Flags": 280, "PDPTRs": 288}}, // struct kvm_sregs2
	{FPU{}, 416, map[string]uintptr{"FPR": 0, "FCW": 128, "FSW": 130, "FTWX": 132, "LastOpcode": 134, "LastIP": 136, "LastDP": 144, "XMM": 152, "MXCSR": 408}},                                                                                                            // struct kvm_fpu
	{MSREntry{}, 16, map[string]uintptr{"Index": 0, "Data": 8}},                                                               // struct kvm_msr_entry
	{CPUIDEntry{}, 40, map[string]uintptr{"Function": 0, "Index": 4, "Flags": 8, "EAX": 12, "EBX": 16, "ECX": 20, "EDX": 24}}, // struct kvm_cpuid_entry2
	{IRQChip{}, 520, map[string]uintptr{"ChipID": 0, "Chip": 8}},                                                              // struct kvm_irqchip
	{IOAPICState{}, 216, map[string]uintptr{"BaseAddress": 0, "IORegSel": 8, "ID": 12, "IRR": 16, "RedirTbl": 24}},            // struct kvm_ioapic_state
	{pitConfig{}, 64, map[string]uintptr{"Flags": 0}},                                                                         // struct kvm_pit_config
	{PITChannelState{}, 24, map[string]uintptr{"Count": 0, "LatchedCount": 4, "CountLatched": 6, "StatusLatched": 7, "Status": 8, "ReadState": 9, "WriteState": 10, "WriteLatch": 11, "RWMode": 12, "Mode": 13, "BCD": 14, "Gate": 15, "CountLoadTime": 16}}, // struct kvm_pit_channel_state
	{PITState{}, 112, map[string]uintptr{"Channels": 0, "Flags": 72}}, // struct kvm_pit_state2
	{LAPICState{}, 1024, map[string]uintptr{"Regs": 0}},               // struct kvm_lapic_state
	{VCPUEvents{}, 64, map[string]uintptr{"Exception": 0, "Interrupt": 8, "NMI": 12, "SIPIVector": 16, "Flags": 20, "SMI": 24, "TripleFaultPending": 28, "ExceptionHasPayload": 55, "ExceptionPayload": 56}}, // struct kvm_vcpu_events
	{DebugRegs{}, 128, map[string]uintptr{"DB": 0, "DR6": 32, "DR7": 40, "Flags": 48}},                                                                                                                       // struct kvm_debugregs
	{XCR{}, 16, map[string]uintptr{"XCR": 0, "Value": 8}},                                                                                                                                                    // struct kvm_xcr
	{XCRs{}, 392, map[string]uintptr{"NrXCRs": 0, "Flags": 4, "XCRs": 8}},                                                                                                                                    // struct kvm_xcrs
	{GuestDebug{}, 72, map[string]uintptr{"Control": 0, "DebugReg": 8}},                                                                                                                                      // struct kvm_guest_debug
	{ioExit{}, 16, map[string]uintptr{"direction": 0, "size": 1, "port": 2, "count": 4, "dataOffset": 8}},                                                                                                    // kvm_run.io
	{mmioExit{}, 24, map[string]uintptr{"physAddr": 0, "data": 8, "len": 16, "isWrite": 20}},                                                                                                                 // kvm_run.mmio
	{InternalError{}, 136, map[string]uintptr{"Suberror": 0, "NData": 4, "Data": 8}},                                                                                                                         // kvm_run.internal
	{FailEntry{}, 16, map[string]uintptr{"Reason": 0, "CPU": 8}},                                                                                                                                             // kvm_run.fail_entry
	{SystemEvent{}, 136, map[string]uintptr{"Type": 0, "NData": 4, "Data": 8}},                                                                                                                               // kvm_run.system_event
	{Hypercall{}, 72, map[string]uintptr{"Nr": 0, "Args": 8, "Ret": 56, "LongMode": 64}},                                                                                                                     // kvm_run.hypercall
	{MSRAccess{}, 24, map[string]uintptr{"Failed": 0, "Reason": 8, "Index": 12, "Data": 16}},                                                                                                                 // kvm_run.msr
	{Debug{}, 32, map[string]uintptr{"Exception": 0, "PC": 8, "DR6": 16, "DR7": 24}},                                                                                                                         // kvm_run.debug
	{runPage{}, 288, map[string]uintptr{"requestInterruptWindow": 0, "immediateExit": 1, "exitReason": 8, "readyForInterrupt": 12, "ifFlag": 13, "flags": 14, "cr8": 16, "apicBase": 24, "exit": 32}},        // offsetof(struct kvm_run,kvm_valid_regs
}

func TestLayout(t *testing.T) {
	for _, l := range layouts {
		typ := reflect.TypeOf(l.value)
		if typ.Size() != l.size {
			t.Errorf("%s is %d bytes long, want %d", typ.Name(), typ.Size(), l.size)
		}
		named := 0
		for i := range typ.NumField() {
			field := typ.Field(i)
			if field.Name == "_" {
				continue
			}
			named++
			if want, ok := l.offsets[field.Name]; !ok || field.Offset != want {
				t.Errorf("%s.%s is at %d, want %d (known: %t)", typ.Name(), field.Name, field.Offset, want, ok)
			}
		}
		if named != len(l.offsets) {
			t.Errorf("%s has %d fields, want %d", typ.Name(), named, len(l.offsets))
		}
	}
}

// TestIoctlSizes holds the size that each ioctl number carries against the structure that we pass.
func TestIoctlSizes(t *testing.T) {
	for _, c := range []struct {
		name   string
		number uintptr
		value  any
	}{
		{"KVM_GET_DIRTY_LOG", kvmGetDirtyLog, dirtyLog{}},
		{"KVM_CLEAR_DIRTY_LOG", kvmClearDirtyLog, clearDirtyLog{}},
		{"KVM_SET_USER_MEMORY_REGION", kvmSetUserMemoryRegion, userMemoryRegion{}},
		{"KVM_SET_IDENTITY_MAP_ADDR", kvmSetIdentityMapAddr, uint64(0)},
		{"KVM_IRQ_LINE", kvmIRQLine, irqLevel{}},
		{"KVM_GET_IRQCHIP", kvmGetIRQChip, IRQChip{}},
		{"KVM_SET_IRQCHIP", kvmSetIRQChip, IRQChip{}},
		{"KVM_IRQFD", kvmIRQFD, irqfd{}},
		{"KVM_IOEVENTFD", kvmIOEventFD, ioeventfd{}},
		{"KVM_SIGNAL_MSI", kvmSignalMSI, msi{}},
		{"KVM_CREATE_PIT2", kvmCreatePIT2, pitConfig{}},
		{"KVM_GET_PIT2", kvmGetPIT2, PITState{}},
		{"KVM_SET_PIT2", kvmSetPIT2, PITState{}},
		{"KVM_GET_CLOCK", kvmGetClock, ClockData{}},
		{"KVM_SET_CLOCK", kvmSetClock, ClockData{}},
		{"KVM_ENABLE_CAP", kvmEnableCap, enableCapArg{}},
		{"KVM_SET_DEVICE_ATTR", kvmSetDeviceAttr, deviceAttr{}},
		{"KVM_GET_DEVICE_ATTR", kvmGetDeviceAttr, deviceAttr{}},
		{"KVM_GET_REGS", kvmGetRegs, Regs{}},
		{"KVM_SET_REGS", kvmSetRegs, Regs{}},
		{"KVM_GET_SREGS", kvmGetSregs, Sregs{}},
		{"KVM_SET_SREGS", kvmSetSregs, Sregs{}},
		{"KVM_GET_SREGS2", kvmGetSregs2, Sregs2{}},
		{"KVM_SET_SREGS2", kvmSetSregs2, Sregs2{}},
		{"KVM_TRANSLATE", kvmTranslate, Translation{}},
		{"KVM_INTERRUPT", kvmInterrupt, uint32(0)},
		{"KVM_GET_FPU", kvmGetFPU, FPU{}},
		{"KVM_SET_FPU", kvmSetFPU, FPU{}},
		{"KVM_GET_XSAVE", kvmGetXsave, [XsaveSize]byte{}},
		{"KVM_SET_XSAVE", kvmSetXsave, [XsaveSize]byte{}},
		{"KVM_GET_XSAVE2", kvmGetXsave2, [XsaveSize]byte{}},
		{"KVM_GET_XCRS", kvmGetXCRs, XCRs{}},
		{"KVM_SET_XCRS", kvmSetXCRs, XCRs{}},
		{"KVM_GET_LAPIC", kvmGetLAPIC, LAPICState{}},
		{"KVM_SET_LAPIC", kvmSetLAPIC, LAPICState{}},
		{"KVM_GET_MP_STATE", kvmGetMPState, MPState(0)},
		{"KVM_SET_MP_STATE", kvmSetMPState, MPState(0)},
		{"KVM_GET_VCPU_EVENTS", kvmGetVCPUEvents, VCPUEvents{}},
		{"KVM_SET_VCPU_EVENTS", kvmSetVCPUEvents, VCPUEvents{}},
		{"KVM_GET_DEBUGREGS", kvmGetDebugRegs, DebugRegs{}},
		{"KVM_SET_DEBUGREGS", kvmSetDebugRegs, DebugRegs{}},
		{"KVM_SET_GUEST_DEBUG", kvmSetGuestDebug, GuestDebug{}},
	} {
		if got, want := reflect.TypeOf(c.value).Size(), c.number>>16&0x3fff; got != want {
			t.Errorf("%s: our structure is %d bytes long, want %d", c.name, got, want)
		}
	}
}
