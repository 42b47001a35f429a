package kvm

import (
	"sync/atomic"
	"unsafe"
)

// runPage is struct kvm_run, KVM API 5, up to its union of exit details.
type runPage struct {
	requestInterruptWindow uint8
	immediateExit          uint8
	_                      [6]byte
	exitReason             ExitReason
	readyForInterrupt      uint8
	ifFlag                 uint8
	flags                  uint16
	cr8                    uint64
	apicBase               uint64
	exit                   [256]byte
}

// newRunPage sees a mapping of kvm_run, which is at least a page long, as one.
func newRunPage(mapping []byte) *runPage {
	_ = mapping[unsafe.Sizeof(runPage{})-1]
	return (*runPage)(unsafe.Pointer(&mapping[0]))
}

// setImmediateExit writes immediate_exit with an atomic read-modify-write of the 32-bit word around it: Go has no 8-bit
// atomics, and the vCPU's thread may be changing request_interrupt_window beside it. That an atomic operation is also a
// full fence is what the order of a kick rests on.
func (p *runPage) setImmediateExit(on bool) {
	word := (*uint32)(unsafe.Pointer(p))
	const mask = 0xff << 8 // immediate_exit is the second byte
	if on {
		atomic.OrUint32(word, 1<<8)
	} else {
		atomic.AndUint32(word, ^uint32(mask))
	}
}

// setInterruptWindow writes request_interrupt_window likewise.
func (p *runPage) setInterruptWindow(on bool) {
	word := (*uint32)(unsafe.Pointer(p))
	if on {
		atomic.OrUint32(word, 1)
	} else {
		atomic.AndUint32(word, ^uint32(0xff))
	}
}

// union sees the exit details as a T, whose length is at most theirs.
func union[T any](p *runPage) *T { return (*T)(unsafe.Pointer(&p.exit)) }
