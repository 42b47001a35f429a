// Govmm-init is PID 1 of the guest in which govmm-run runs containers. It is of no use anywhere else.
package main

import (
	"os"
	"runtime"

	"github.com/govmm/govmm/runtime/agent/guest"
)

func main() {
	// The main thread shows in /proc as the process: no goroutine that enters a container may run on it.
	runtime.LockOSThread()
	if len(os.Args) == 3 && os.Args[0] == guest.StageName {
		guest.Stage()
	}
	if os.Getpid() != 1 {
		println("govmm-init: not PID 1 of a govmm guest")
		os.Exit(1)
	}
	cfg, err := guest.Boot()
	if err == nil {
		err = guest.Run(cfg)
	}
	// The host reads the last words on the serial console, where there is one, or sees the reset.
	println("govmm-init:", err.Error())
	guest.Reset()
}
