package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

// vector is a reused list of buffers for one system call: unix.Readv makes one for each call.
type vector struct{ iovs []unix.Iovec }

func (v *vector) set(buffers [][]byte) {
	v.iovs = v.iovs[:0]
	for _, b := range buffers {
		if len(b) > 0 {
			v.iovs = append(v.iovs, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		}
	}
}

// clear forgets the buffers: guest memory may be unmapped when the list is used again.
func (v *vector) clear() { clear(v.iovs) }

func (v *vector) base() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(v.iovs))) }

func (v *vector) read(fd uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_READV, fd, v.base(), uintptr(len(v.iovs)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (v *vector) write(fd uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, v.base(), uintptr(len(v.iovs))); errno != 0 {
		return errno
	}
	return nil
}

var _ net.Link = (*TAP)(nil)
