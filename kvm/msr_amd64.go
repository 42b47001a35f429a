package kvm

// Model-specific registers, Intel SDM vol. 4 and AMD APM vol. 2 appendix A.
const (
	MSRTSC              = 0x10
	MSRAPICBase         = 0x1b
	MSRFeatureControl   = 0x3a
	MSRTSCAdjust        = 0x3b
	MSRSpecCtrl         = 0x48
	MSRBIOSSignID       = 0x8b
	MSRPlatformInfo     = 0xce
	MSRMTRRCap          = 0xfe
	MSRArchCapabilities = 0x10a
	MSRSysenterCS       = 0x174
	MSRSysenterESP      = 0x175
	MSRSysenterEIP      = 0x176
	MSRMiscEnable       = 0x1a0
	MSRMTRRPhysBase0    = 0x200
	MSRPAT              = 0x277
	MSRMTRRDefType      = 0x2ff
	MSRTSCDeadline      = 0x6e0
	MSRXSS              = 0xda0
	MSREFER             = 0xc0000080
	MSRSTAR             = 0xc0000081
	MSRLSTAR            = 0xc0000082
	MSRCSTAR            = 0xc0000083
	MSRSyscallMask      = 0xc0000084
	MSRFSBase           = 0xc0000100
	MSRGSBase           = 0xc0000101
	MSRKernelGSBase     = 0xc0000102
	MSRTSCAux           = 0xc0000103
	MSRVirtSpecCtrl     = 0xc001011f
	MSRAMD64DECfg       = 0xc0011029
)

// KVM's own registers, Documentation/virt/kvm/x86/msr.rst.
const (
	MSRKVMWallClock      = 0x4b564d00
	MSRKVMSystemTime     = 0x4b564d01
	MSRKVMAsyncPFEn      = 0x4b564d02
	MSRKVMStealTime      = 0x4b564d03
	MSRKVMPVEOIEn        = 0x4b564d04
	MSRKVMPollControl    = 0x4b564d05
	MSRKVMAsyncPFInt     = 0x4b564d06
	MSRKVMAsyncPFAck     = 0x4b564d07
	MSRKVMMigrationCtrl  = 0x4b564d08
	MiscEnableFastString = 1 << 0  // in MSRMiscEnable
	MTRRDefTypeEnable    = 1 << 11 // in MSRMTRRDefType
	MTRRDefTypeWriteBack = 6       // in MSRMTRRDefType
	APICBaseBSP          = 1 << 8  // in MSRAPICBase
	APICBaseX2APIC       = 1 << 10 // in MSRAPICBase
	APICBaseEnable       = 1 << 11 // in MSRAPICBase
	APICBaseDefault      = 0xfee00000
	PATDefault           = 0x0007040600070406
)
