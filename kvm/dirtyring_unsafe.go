package kvm

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirtyLogPageOffset is KVM_DIRTY_LOG_PAGE_OFFSET: where in a vCPU's mapping the ring begins, in pages.
const dirtyLogPageOffset = 64

// DirtyRing is a vCPU's ring of pages that were written, KVM API 8.29. One goroutine collects from it.
type DirtyRing struct {
	mapping []byte
	entries []dirtyGFN
	next    int
}

// DirtyRing maps the vCPU's ring. size is what CapDirtyLogRing or CapDirtyLogRingAcqRel was enabled with on the VM before
// its first vCPU: a power of two, in bytes. The caller closes the ring.
func (v *VCPU) DirtyRing(size int) (*DirtyRing, error) {
	if !v.fd.acquire() {
		return nil, os.NewSyscallError("mmap dirty ring", unix.EBADF)
	}
	defer v.fd.release()
	b, err := unix.Mmap(v.fd.num, int64(dirtyLogPageOffset*os.Getpagesize()), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap dirty ring", err)
	}
	n := len(b) / int(unsafe.Sizeof(dirtyGFN{}))
	return &DirtyRing{mapping: b, entries: unsafe.Slice((*dirtyGFN)(unsafe.Pointer(&b[0])), n)}, nil
}

// Next takes an entry, if there is one. KVM has its place back after VM.ResetDirtyRings, which also write-protects the
// page anew: what was written before that call is in the page.
func (r *DirtyRing) Next() (DirtyPage, bool) {
	e := &r.entries[r.next]
	// Acquire: the entry is valid when its flag is seen. Release: KVM takes it back when it sees the other.
	if atomic.LoadUint32(&e.Flags)&dirtyGFNDirty == 0 {
		return DirtyPage{}, false
	}
	p := DirtyPage{Slot: e.Slot, Page: e.Offset}
	atomic.StoreUint32(&e.Flags, dirtyGFNReset)
	r.next = (r.next + 1) % len(r.entries)
	return p, true
}

// Close unmaps the ring; nobody may be in Next.
func (r *DirtyRing) Close() error { return os.NewSyscallError("munmap", unix.Munmap(r.mapping)) }
