package frames

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vector is a reused list of buffers for one system call: unix.Readv makes one for each call.
type vector struct {
	iovs    []unix.Iovec
	message unix.Msghdr // of send
}

func (v *vector) set(buffers [][]byte) {
	v.iovs = v.iovs[:0]
	for _, b := range buffers {
		if len(b) > 0 {
			v.iovs = append(v.iovs, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		}
	}
}

// clear forgets the buffers: guest memory may be unmapped when the list is used again.
func (v *vector) clear() {
	clear(v.iovs)
	v.message = unix.Msghdr{}
}

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

// send is write to a socket, whose other end may be gone: without a signal.
func (v *vector) send(fd uintptr) error {
	v.message = unix.Msghdr{Iov: unsafe.SliceData(v.iovs), Iovlen: uint64(len(v.iovs))}
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&v.message)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if errno != 0 {
		return errno
	}
	return nil
}
