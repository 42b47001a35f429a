package guestmem

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page, in bytes.
const hugePage = 2 << 20

// Map allocates zeroed guest RAM: private, anonymous, not reserved, and asked to be backed by huge pages. Host and
// guest-physical addresses agree modulo 2 MiB, without which neither the host's page tables nor the nested ones can
// use huge pages. The caller must Close it after the last access by anyone, KVM included.
func Map(layout []Region) (*Memory, error) {
	sorted, err := checkLayout(layout)
	if err != nil {
		return nil, err
	}
	m := &Memory{}
	for _, r := range sorted {
		b, err := mapRegion(r, unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			_ = m.Close()
			return nil, err
		}
		m.blocks = append(m.blocks, b)
	}
	return m, nil
}

func mapRegion(r Region, prot int) (block, error) {
	if r.Size > 1<<46 {
		return block{}, fmt.Errorf("guest memory: %d bytes are more than a process can map", r.Size)
	}
	length := int(r.Size) + hugePage
	mapping, err := unix.Mmap(-1, 0, length, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return block{}, fmt.Errorf("guest memory of %d MiB: %w", r.Size>>20, os.NewSyscallError("mmap", err))
	}
	host := uint64(uintptr(unsafe.Pointer(&mapping[0])))
	skip := (uint64(r.Base) - host) & (hugePage - 1)
	bytes := mapping[skip : skip+r.Size : skip+r.Size]
	// Advice only: a host without huge pages still runs the guest, only slower.
	_ = unix.Madvise(bytes, unix.MADV_HUGEPAGE)
	return block{Region: r, bytes: bytes, mapping: mapping}, nil
}

// guestAddr finds the guest-physical address that lies at a host address, if one does.
func (m *Memory) guestAddr(host uintptr) (Addr, bool) {
	for i := range m.blocks {
		if a, ok := m.blocks[i].guestAddr(host); ok {
			return a, true
		}
	}
	if m.reserve != nil {
		return m.reserve.guestAddr(host)
	}
	return 0, false
}

func (b *block) guestAddr(host uintptr) (Addr, bool) {
	off := uint64(host) - uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b.bytes))))
	return b.Base + Addr(off), off < b.Size
}

// AddrOf returns the guest-physical address of a slice that Slice has returned, or of a part of it.
func (m *Memory) AddrOf(b []byte) (Addr, bool) {
	return m.guestAddr(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

// Close unmaps the memory. Any later access faults, so vCPUs, queues and KVM memory slots must be gone.
func (m *Memory) Close() error {
	var first error
	all := m.blocks
	if m.reserve != nil {
		all = append(all, m.reserve.block)
	}
	for _, b := range all {
		if b.mapping == nil {
			continue
		}
		if err := unix.Munmap(b.mapping); err != nil && first == nil {
			first = os.NewSyscallError("munmap", err)
		}
	}
	m.blocks, m.reserve = nil, nil
	return first
}
