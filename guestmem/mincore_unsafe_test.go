package guestmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore asks which pages of b are backed (mincore(2)), which package unix does not offer.
func mincore(b, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return errno
	}
	return nil
}
