package guest

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// installSeccomp installs the process's filter for this thread, and so for the program that it executes.
func (e *execution) installSeccomp() error {
	f := e.p.Seccomp.Filter
	if len(f) == 0 {
		return nil
	}
	if len(f) > unix.BPF_MAXINSNS {
		return os.NewSyscallError("seccomp", unix.E2BIG)
	}
	filter := make([]unix.SockFilter, len(f))
	for i, in := range f {
		filter[i] = unix.SockFilter{Code: in.Code, Jt: in.JT, Jf: in.JF, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(e.p.Seccomp.Flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
