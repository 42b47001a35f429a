package guestmem

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Ring gives atomic access to the 16-bit and 32-bit words of a virtqueue area. Go has no 16-bit atomics, so a 16-bit
// access goes through the aligned 32-bit word around it, and the device publishes used.flags and used.idx, which share
// such a word, with one 32-bit store (an XCHG on amd64: a full fence).
type Ring struct {
	b []byte
}

// Ring returns atomic access to n bytes at a, which must be 4-byte aligned. The bytes are rounded up to whole words,
// which must lie in RAM too.
func (m *Memory) Ring(a Addr, n uint32) (Ring, error) {
	if a%4 != 0 {
		return Ring{}, fmt.Errorf("ring at %#x is not aligned to 4 bytes", uint64(a))
	}
	whole := (n + 3) &^ 3
	if whole < n {
		return Ring{}, rangeError(a, uint64(n))
	}
	b, err := m.Slice(a, whole)
	if err != nil {
		return Ring{}, err
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4 != 0 {
		return Ring{}, fmt.Errorf("ring at %#x: host memory is not aligned to 4 bytes", uint64(a))
	}
	return Ring{b}, nil
}

// word returns the aligned word that holds off. The slice expression checks the bounds of the whole word.
func (r Ring) word(off uint32) *uint32 {
	i := uint64(off &^ 3)
	w := r.b[i : i+4]
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(w)))
}

// Load32 loads the little-endian word at off, which must be a multiple of 4.
func (r Ring) Load32(off uint32) uint32 { return atomic.LoadUint32(r.word(off)) }

// Store32 stores v at off, which must be a multiple of 4, as a full fence: loads after it see what the driver wrote
// before it looked at v.
func (r Ring) Store32(off uint32, v uint32) { atomic.StoreUint32(r.word(off), v) }

// Load16 loads the 16-bit value at off, which must be a multiple of 2.
func (r Ring) Load16(off uint32) uint16 {
	return uint16(atomic.LoadUint32(r.word(off)) >> (8 * (off & 2)))
}

// maxSwaps bounds Store16's loop, which only another writer of the same word can prolong.
const maxSwaps = 64

// Store16 stores v at off, which must be a multiple of 2, as a full fence, and leaves the other half of its word as it
// is, even when someone writes to that half at the same time: it may lie outside the ring and be the driver's.
func (r Ring) Store16(off uint32, v uint16) {
	w, shift := r.word(off), 8*(off&2)
	mask := uint32(0xffff) << shift
	for range maxSwaps {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^mask|uint32(v)<<shift) {
			return
		}
	}
	// A driver that hammers the neighbouring half pays with a moment in which this half reads as zero.
	atomic.AndUint32(w, ^mask)
	atomic.OrUint32(w, uint32(v)<<shift)
}

// Put16 stores a 16-bit value at off, which must be a multiple of 2, without a fence; publish it with Store32 or
// Store16.
func (r Ring) Put16(off uint32, v uint16) { binary.LittleEndian.PutUint16(r.b[off:], v) }

// Put32 stores a 32-bit value at off without a fence.
func (r Ring) Put32(off uint32, v uint32) { binary.LittleEndian.PutUint32(r.b[off:], v) }
