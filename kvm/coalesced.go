package kvm

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// pageSize is x86's, in bytes.
const pageSize = 4096

// coalescedZone is struct kvm_coalesced_mmio_zone.
type coalescedZone struct {
	Addr uint64
	Size uint32
	Port uint32
}

// CoalesceMMIO is KVM_REGISTER_COALESCED_MMIO, KVM API 4.116: writes that lie within size bytes from the guest-physical address addr on
// do not end KVM_RUN any more, but are kept for PostedWrites, while there is room.
func (vm *VM) CoalesceMMIO(addr uint64, size uint32) error {
	return set(vm.fd, "KVM_REGISTER_COALESCED_MMIO", kvmRegisterCoalescedMMIO, &coalescedZone{Addr: addr, Size: size})
}

// RemoveCoalescedMMIO undoes CoalesceMMIO, given the same arguments. What is kept already stays.
func (vm *VM) RemoveCoalescedMMIO(addr uint64, size uint32) error {
	return set(vm.fd, "KVM_UNREGISTER_COALESCED_MMIO", kvmUnregisterCoalescedMMIO, &coalescedZone{Addr: addr, Size: size})
}

// PostedWrites are the writes that KVM keeps by CoalesceMMIO, of all vCPUs of a VM. Some kernels lose them all when more than 85 come
// between two calls of Take, by an error in how they reckon the room that is left.
type PostedWrites struct {
	fd   *fd // whose mapping the ring is in
	ring *coalescedRing
	mu   sync.Mutex // over taking
}

// PostedWrites returns the VM's, of which there must be only one. page is what CheckExtension(CapCoalescedMMIO) says, never 0: where in
// the mapping of kvm_run the ring lies, in pages.
func (v *VCPU) PostedWrites(page int) (*PostedWrites, error) {
	if !v.fd.acquire() {
		return nil, os.NewSyscallError("posted writes", unix.EBADF)
	}
	defer v.fd.release()
	if page < 1 || len(v.fd.mapping) < (page+1)*pageSize {
		return nil, fmt.Errorf("kvm: no room for posted writes in page %d of kvm_run, of %d bytes", page, len(v.fd.mapping))
	}
	return &PostedWrites{fd: v.fd, ring: newCoalescedRing(v.fd.mapping[page*pageSize:])}, nil
}

// Take hands over the writes, in their order, until there is none, or as many were taken as the ring holds: a guest may go on for ever. data is
// of 1 to 8 bytes, and write must not keep it. Take may be called from any goroutine, also while the guest runs; when the vCPU is closed it does nothing.
func (p *PostedWrites) Take(write func(addr uint64, data []byte)) {
	if !p.fd.acquire() {
		return
	}
	defer p.fd.release()
	if p.ring.empty() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range coalescedEntries {
		w := p.ring.front()
		if w == nil {
			return
		}
		write(w.Addr, w.Data[:min(w.Len, uint32(len(w.Data)))])
		p.ring.pop()
	}
}
