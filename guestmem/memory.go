// Package guestmem owns the guest's physical memory: its regions, the bounds of every access, and the few atomic
// accesses that the virtio rings need. Everything that parses what a guest wrote goes through it; nothing else in
// govmm holds an unsafe pointer into guest RAM.
//
// A slice of guest memory can change under its reader at any moment. Hand it to copy or to the kernel (preadv); parse
// only private copies made by ReadAt.
package guestmem

import (
	"errors"
	"fmt"
	"sort"
)

// Addr is a guest-physical address.
type Addr uint64

// PageSize is the smallest unit that regions are made of, in bytes.
const PageSize = 4096

// ErrOutOfRange reports an access that is not wholly inside guest RAM.
var ErrOutOfRange = errors.New("outside guest memory")

// Region describes one contiguous range of guest RAM; Size is in bytes.
type Region struct {
	Base Addr
	Size uint64
}

// End returns the first address after the region.
func (r Region) End() Addr { return r.Base + Addr(r.Size) }

type block struct {
	Region
	bytes   []byte
	mapping []byte // the whole mmap that bytes lies in; nil for heap memory
}

// Memory is a guest's RAM. Its regions are sorted, do not overlap and never change, and its reserve only grows, so all
// methods but Reserve and Close may be called from any goroutine.
type Memory struct {
	blocks  []block
	reserve *reserve // nil without one
}

// FromBytes makes a Memory of one region over heap bytes, for tests and fuzz targets: the race detector sees heap
// memory but not mappings. It panics if b is longer than the address space above base.
func FromBytes(base Addr, b []byte) *Memory {
	r := Region{base, uint64(len(b))}
	if r.End() < base {
		panic("guestmem: region wraps around the address space")
	}
	return &Memory{blocks: []block{{Region: r, bytes: b}}}
}

// Regions returns the layout of the RAM that is there from the start, sorted by address.
func (m *Memory) Regions() []Region {
	out := make([]Region, len(m.blocks))
	for i := range m.blocks {
		out[i] = m.blocks[i].Region
	}
	return out
}

// Size returns the number of bytes of RAM, without the reserve.
func (m *Memory) Size() uint64 {
	var n uint64
	for i := range m.blocks {
		n += m.blocks[i].Size
	}
	return n
}

// Host returns the host's view of region i, for KVM memory slots. Nothing that parses guest data may use it.
func (m *Memory) Host(i int) []byte { return m.blocks[i].bytes }

// from returns the bytes from a to the end of what is accessible in its region, nil where there is no RAM.
func (m *Memory) from(a Addr) []byte {
	for i := range m.blocks {
		b := &m.blocks[i]
		if off := uint64(a - b.Base); a >= b.Base && off < b.Size {
			return b.bytes[off:]
		}
	}
	if m.reserve != nil {
		return m.reserve.from(a)
	}
	return nil
}

func rangeError(a Addr, n uint64) error {
	return fmt.Errorf("guest address %#x+%#x: %w", uint64(a), n, ErrOutOfRange)
}

// Slice returns n bytes of guest memory at a. They must lie in one region; a zero length is allowed at any address
// inside RAM. The slice's capacity ends with it.
func (m *Memory) Slice(a Addr, n uint32) ([]byte, error) {
	b := m.from(a)
	if b == nil || uint64(n) > uint64(len(b)) {
		return nil, rangeError(a, uint64(n))
	}
	return b[:n:n], nil
}

// ReadAt fills p from guest memory at a. The range may span adjacent regions.
func (m *Memory) ReadAt(p []byte, a Addr) error {
	return m.walk(a, p, func(guest, host []byte) { copy(host, guest) })
}

// WriteAt copies p to guest memory at a. The range may span adjacent regions; nothing is written if part of it is
// not RAM.
func (m *Memory) WriteAt(p []byte, a Addr) error {
	if err := m.walk(a, p, func(_, _ []byte) {}); err != nil {
		return err
	}
	return m.walk(a, p, func(guest, host []byte) { copy(guest, host) })
}

func (m *Memory) walk(a Addr, p []byte, visit func(guest, host []byte)) error {
	start, total := a, uint64(len(p))
	for len(p) > 0 {
		b := m.from(a)
		if b == nil {
			return rangeError(start, total)
		}
		n := min(len(b), len(p))
		visit(b[:n], p[:n])
		p = p[n:]
		a += Addr(n)
	}
	return nil
}

// checkLayout refuses regions that are empty, unaligned, overlap or wrap, and returns them sorted.
func checkLayout(layout []Region) ([]Region, error) {
	if len(layout) == 0 {
		return nil, errors.New("guest memory: no regions")
	}
	sorted := append([]Region(nil), layout...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Base < sorted[j].Base })
	for i, r := range sorted {
		switch {
		case r.Size == 0 || r.Size%PageSize != 0 || r.Base%PageSize != 0:
			return nil, fmt.Errorf("guest memory: region %#x+%#x is not made of whole pages", uint64(r.Base), r.Size)
		case r.End() < r.Base:
			return nil, fmt.Errorf("guest memory: region %#x+%#x wraps around the address space", uint64(r.Base), r.Size)
		case i > 0 && sorted[i-1].End() > r.Base:
			return nil, fmt.Errorf("guest memory: region %#x+%#x overlaps another", uint64(r.Base), r.Size)
		}
	}
	return sorted, nil
}
