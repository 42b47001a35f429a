// Package devices has the platform devices that a guest needs besides virtio: the first serial port, the reset line of
// the keyboard controller, the power switch of ACPI, a port that reports boot phases; and the bus that ports and MMIO
// windows hang on.
//
// Everything here is driven by a guest that is hostile. Several vCPUs call at once; no call blocks for long, allocates
// in proportion to what the guest asks for, or panics.
package devices

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// Handler answers accesses to a range of a bus. off is relative to the range's start, and off+len(p) lies within it;
// len(p) is what the guest's instruction names, 1 to 8 bytes. Both methods are called by several vCPUs at once.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Bus dispatches accesses by address, be they port numbers or guest-physical addresses. Where there is no device, reads
// give all ones, as on a PC, and writes are lost. That holds for the RTC (ports 0x70 and 0x71) and the PIT (0x40 to
// 0x43), too: guests get the time by kvm-clock and the TSC deadline timer.
type Bus struct {
	mu     sync.Mutex // of Add
	ranges atomic.Pointer[[]busRange]
}

type busRange struct {
	base, end uint64 // [base, end)
	handler   Handler
}

// NewBus returns a bus without devices.
func NewBus() *Bus {
	b := &Bus{}
	b.ranges.Store(&[]busRange{})
	return b
}

// Add puts h at size addresses from base. Ranges must not be empty, wrap or overlap. It may be called while the guest
// runs.
func (b *Bus) Add(base, size uint64, h Handler) error {
	end := base + size
	if size == 0 || end < base {
		return fmt.Errorf("bus: bad range %#x+%#x", base, size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := *b.ranges.Load()
	for _, r := range old {
		if base < r.end && r.base < end {
			return fmt.Errorf("bus: range %#x+%#x overlaps %#x+%#x", base, size, r.base, r.end-r.base)
		}
	}
	ranges := append(append(make([]busRange, 0, len(old)+1), old...), busRange{base, end, h})
	sort.Slice(ranges, func(i, j int) bool { return ranges[i].base < ranges[j].base })
	b.ranges.Store(&ranges)
	return nil
}

// Read fills p from the device at addr. An access that is not wholly inside one range gives all ones.
func (b *Bus) Read(addr uint64, p []byte) {
	if r := b.find(addr, len(p)); r != nil {
		r.handler.Read(addr-r.base, p)
		return
	}
	fillOnes(p)
}

// Write gives p to the device at addr. An access that is not wholly inside one range is lost.
func (b *Bus) Write(addr uint64, p []byte) {
	if r := b.find(addr, len(p)); r != nil {
		r.handler.Write(addr-r.base, p)
	}
}

// find allocates nothing and takes no lock: it is on the path of every exit.
func (b *Bus) find(addr uint64, n int) *busRange {
	ranges := *b.ranges.Load()
	lo, hi := 0, len(ranges)
	for lo < hi {
		mid := (lo + hi) / 2
		if ranges[mid].end <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(ranges) {
		return nil
	}
	r := &ranges[lo]
	if addr < r.base || uint64(n) > r.end-addr {
		return nil
	}
	return r
}

// fillOnes is the answer of a register that is not there.
func fillOnes(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
