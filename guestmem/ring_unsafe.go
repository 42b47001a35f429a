package guestmem

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Ring gives atomic access to the 16-bit and 32-bit words of a virtqueue area. Go has no 16-bit atomics, so a 16-bit
// load goes through the aligned 32-bit word around it, and the device publishes used.flags and used.idx, which share
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
	b, err := m.Slice(a, (n+3)&^3)
	if err != nil {
		return Ring{}, err
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4 != 0 {
		return Ring{}, fmt.Errorf("ring at %#x: host memory is not aligned to 4 bytes", uint64(a))
	}
	return Ring{b}, nil
}

func (r Ring) word(off uint32) *uint32 {
	_ = r.b[off+3] // bounds
	return (*uint32)(unsafe.Pointer(&r.b[off&^3]))
}

// Load32 loads the little-endian word at off, which must be a multiple of 4.
func (r Ring) Load32(off uint32) uint32 { return atomic.LoadUint32(r.word(off)) }

// Store32 stores v at off, which must be a multiple of 4, as a full fence: loads after it see what the driver wrote
// before it looked at v (virtio 1.2 §2.7.10 needs this between avail_event and the re-read of avail.idx).
func (r Ring) Store32(off uint32, v uint32) { atomic.StoreUint32(r.word(off), v) }

// Load16 loads the 16-bit value at off, which must be a multiple of 2.
func (r Ring) Load16(off uint32) uint16 {
	_ = r.b[off+1]
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.b[off&^3]))) >> (8 * (off & 2)))
}

// Put16 stores a 16-bit value at off, which must be a multiple of 2, without a fence. Only the device writes to the
// word's neighbours, so a plain store is enough; publish it with Store32.
func (r Ring) Put16(off uint32, v uint16) { binary.LittleEndian.PutUint16(r.b[off:], v) }

// Put32 stores a 32-bit value at off without a fence.
func (r Ring) Put32(off uint32, v uint32) { binary.LittleEndian.PutUint32(r.b[off:], v) }
