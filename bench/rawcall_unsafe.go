package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawCall is read or write without a word to Go's scheduler: nothing else of the process runs meanwhile.
func rawCall(number uintptr, fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
