package kvm

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls with a plain number as its argument and returns the ioctl's result. It goes round on EINTR, which
// ioctls that wait for a lock return when the Go runtime preempts the thread.
func (f *fd) ioctl(name string, request, arg uintptr) (int, error) {
	if !f.acquire() {
		return -1, os.NewSyscallError(name, unix.EBADF)
	}
	defer f.release()
	for {
		// Not RawSyscall: that would keep the P, and stop the whole process at the next garbage collection if the
		// call waits.
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.num), request, arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return -1, os.NewSyscallError(name, errno)
		}
	}
}

// ioctlPtr calls with a pointer to *arg, which the kernel reads, writes, or both.
func ioctlPtr[T any](f *fd, name string, request uintptr, arg *T) (int, error) {
	if !f.acquire() {
		return -1, os.NewSyscallError(name, unix.EBADF)
	}
	defer f.release()
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.num), request, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return -1, os.NewSyscallError(name, errno)
		}
	}
}

// set is ioctlPtr for ioctls without a result.
func set[T any](f *fd, name string, request uintptr, arg *T) error {
	_, err := ioctlPtr(f, name, request, arg)
	return err
}

// get is ioctlPtr for ioctls whose result is the structure. It returns the zero T with an error.
func get[T any](f *fd, name string, request uintptr) (T, error) {
	arg := new(T)
	_, err := ioctlPtr(f, name, request, arg)
	return *arg, err
}

// table makes an ioctl argument of the form { u32 count; u32 pad; T entries[count] }, where T is a multiple of 8 bytes
// long. The kernel gets &buf[0]; entries lies in buf. Its count is set.
func table[T any](n int) (buf []uint64, entries []T) {
	var t T
	buf = make([]uint64, 1+n*int(unsafe.Sizeof(t))/8)
	buf[0] = uint64(n)
	if n > 0 {
		entries = unsafe.Slice((*T)(unsafe.Pointer(&buf[1])), n)
	}
	return buf, entries
}

// addressOf is the address of b, for structures that carry addresses as numbers. b must not be on the Go heap or must
// be kept alive by the caller until the kernel has let go of it.
func addressOf[T any](b []T) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
