package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawCall is read or write without a word to Go's scheduler: nothing else of the process runs meanwhile.
func rawCall(number uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
