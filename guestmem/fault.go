package guestmem

import (
	"fmt"
	"runtime/debug"
)

// FaultError says that the host could not back a page of guest memory when this process touched it: SIGBUS from a page
// of failed RAM, or from huge pages that have run out.
type FaultError struct {
	Addr  Addr
	Cause error
}

// Error implements error.
func (e *FaultError) Error() string {
	return fmt.Sprintf("guest memory at %#x: the host cannot back it: %v", uint64(e.Addr), e.Cause)
}

// Unwrap returns what the Go runtime said of the fault.
func (e *FaultError) Unwrap() error { return e.Cause }

// Guard runs f, which accesses guest memory, and turns a fault in it into a FaultError; without Guard a fault ends the
// process. Mutexes that f holds must be unlocked by deferred calls, or nobody gets them again. Every other panic goes on:
// it is a bug. It protects its own goroutine only, so each one that touches guest memory needs a Guard of its own.
func (m *Memory) Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// The runtime's errors have Addr for faults, and for nothing else.
		fault, ok := p.(interface {
			error
			Addr() uintptr
		})
		if !ok {
			panic(p)
		}
		a, ok := m.guestAddr(fault.Addr())
		if !ok {
			panic(p)
		}
		err = &FaultError{a, fault}
	}()
	return f()
}
