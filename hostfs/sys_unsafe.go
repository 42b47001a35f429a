package hostfs

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xattrArgs is struct xattr_args of linux/xattr.h.
type xattrArgs struct {
	value       uint64
	size, flags uint32
}

// System calls that golang.org/x/sys/unix lacks; the numbers are the same on every architecture.
const (
	sysGetxattrat  = 464
	sysListxattrat = 465
)

func getxattrat(dirfd int, path, attr string, dest []byte) (int, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	a, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	// The struct holds an address as a number, where the garbage collector does not see it: the pin keeps the bytes where they are.
	args := &xattrArgs{size: uint32(len(dest))}
	if len(dest) > 0 {
		var pin runtime.Pinner
		defer pin.Unpin()
		pin.Pin(unsafe.SliceData(dest))
		args.value = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(dest))))
	}
	n, _, errno := unix.Syscall6(sysGetxattrat, uintptr(dirfd), uintptr(unsafe.Pointer(p)), 0, uintptr(unsafe.Pointer(a)),
		uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func listxattrat(dirfd int, path string, dest []byte) (int, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(sysListxattrat, uintptr(dirfd), uintptr(unsafe.Pointer(p)), 0,
		uintptr(unsafe.Pointer(unsafe.SliceData(dest))), uintptr(len(dest)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
