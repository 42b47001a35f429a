package guestmem

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// reserve is a region of which a part, from its start on, is accessible, and more and more of it as Open says.
type reserve struct {
	block
	open atomic.Uint64 // bytes
}

func (r *reserve) from(a Addr) []byte {
	open := r.open.Load()
	if off := uint64(a - r.Base); a >= r.Base && off < open {
		return r.bytes[off:open]
	}
	return nil
}

// Reserve adds a region for memory that the guest gets later. Nothing of it is accessible before Open, to anybody: the
// host keeps the addresses free and neither counts nor backs a byte. There may be one, and it is added before anyone
// else uses the memory.
func (m *Memory) Reserve(r Region) error {
	layout := append(m.Regions(), r)
	if m.reserve != nil {
		layout = append(layout, m.reserve.Region)
	}
	if _, err := checkLayout(layout); err != nil {
		return err
	}
	if m.reserve != nil {
		return fmt.Errorf("guest memory: a second reserve, at %#x", uint64(r.Base))
	}
	b, err := mapRegion(r, unix.PROT_NONE)
	if err != nil {
		return err
	}
	m.reserve = &reserve{block: b}
	return nil
}

// Open makes the first n bytes of the reserve accessible and returns the host's view of those that are new, for a KVM
// memory slot. What is open stays so. Only one goroutine may call it at a time.
func (m *Memory) Open(n uint64) ([]byte, error) {
	r := m.reserve
	if r == nil || n > r.Size || n%PageSize != 0 {
		return nil, fmt.Errorf("guest memory: %d bytes of a reserve that does not have them in whole pages", n)
	}
	old := r.open.Load()
	if n <= old {
		return nil, nil
	}
	part := r.bytes[old:n:n]
	if err := unix.Mprotect(part, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, fmt.Errorf("guest memory of %d MiB more: %w", len(part)>>20, os.NewSyscallError("mprotect", err))
	}
	r.open.Store(n)
	return part, nil
}

// Release gives the whole pages inside n bytes at a back to the host: they cost nothing and read as zeroes until
// someone writes to them again. The range must lie in one region. What the host backs with a huge page it gets back when
// all of that page is released.
func (m *Memory) Release(a Addr, n uint64) error {
	b := m.from(a)
	if b == nil || n > uint64(len(b)) {
		return rangeError(a, n)
	}
	// Host and guest addresses agree modulo the size of a page, so that their page boundaries are the same.
	skip := uint64(-a) % PageSize
	if skip > n || n-skip < PageSize {
		return nil
	}
	b = b[skip : n-(n-skip)%PageSize]
	if !m.mapped(a) {
		clear(b)
		return nil
	}
	return os.NewSyscallError("madvise", unix.Madvise(b, unix.MADV_DONTNEED))
}

// mapped tells whether a lies in a mapping of ours, and not in a test's heap memory.
func (m *Memory) mapped(a Addr) bool {
	for i := range m.blocks {
		if b := &m.blocks[i]; a >= b.Base && a < b.End() {
			return b.mapping != nil
		}
	}
	return true // the reserve
}
