package kvm

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fd is an owned descriptor, with the mapping that belongs to it if there is one. It counts the calls that use it, so a
// Close during a call cannot hand the number to somebody else's file: the descriptor and the mapping go when the last
// call returns. It has no finalizer: nothing is closed under a caller that has kept only a part of it.
type fd struct {
	num     int
	mapping []byte
	// state is closed, plus the number of calls under way.
	state atomic.Int64
}

const fdClosed = 1 << 62

// acquire takes a reference, or reports that the descriptor is closed.
func (f *fd) acquire() bool {
	for {
		s := f.state.Load()
		if s&fdClosed != 0 {
			return false
		}
		if f.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// release gives back what acquire took.
func (f *fd) release() {
	if f.state.Add(-1) == fdClosed {
		f.destroy()
	}
}

// close marks the descriptor closed; a second close does nothing.
func (f *fd) close() {
	for {
		s := f.state.Load()
		if s&fdClosed != 0 {
			return
		}
		if f.state.CompareAndSwap(s, s|fdClosed) {
			if s == 0 {
				f.destroy()
			}
			return
		}
	}
}

// destroy runs once. Neither call can fail on a descriptor and a mapping that are ours.
func (f *fd) destroy() {
	if f.mapping != nil {
		_ = unix.Munmap(f.mapping)
		f.mapping = nil
	}
	_ = unix.Close(f.num)
}
