package guest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is struct kernel_sigaction of x86-64, include/linux/signal_types.h.
type sigaction struct {
	handler, flags, restorer, mask uintptr
}

// Dispositions and the number of signals, signal(7).
const (
	sigDefault = 0
	sigIgnore  = 1
	signals    = 64
)

// defaultSignals gives every ignored signal its default action: execve resets those that are caught, and leaves those
// that are ignored, which this process may have inherited.
func defaultSignals() {
	for sig := uintptr(1); sig <= signals; sig++ {
		var act sigaction
		const maskSize = unsafe.Sizeof(act.mask)
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&act)), maskSize, 0, 0); errno != 0 || act.handler != sigIgnore {
			continue // SIGKILL and SIGSTOP cannot be ignored
		}
		act = sigaction{handler: sigDefault}
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, maskSize, 0, 0)
	}
}
