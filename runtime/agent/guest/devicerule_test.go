package guest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// TestLoadInterrupted loads a program while its thread gets signals without end, which the kernel's verifier gives up for.
func TestLoadInterrupted(t *testing.T) {
	need.Root(t)
	program := deviceProgram(ownRules)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done, ended := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG) // what Go preempts with
			}
		}
	}()
	defer func() {
		close(done)
		<-ended
	}()
	for i := range 2000 {
		fd, err := loadDeviceProgram(program)
		if err != nil {
			t.Fatalf("load %d: %v", i, err)
		}
		unix.Close(fd)
	}
}
