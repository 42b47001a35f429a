// The Go runtime need not read the cgroup's CPU limit at every start: a monitor's GOMAXPROCS is set by who starts it.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// govmm-run is an OCI runtime in which every container is a micro-VM: a drop-in for runc.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/monitor"
)

func main() {
	// The monitor and the proxies are this program too, told by the environment: no flags, no cobra, no cost of them.
	switch {
	case os.Getenv(monitor.IDVariable) != "":
		os.Exit(monitor.Main())
	case os.Getenv(lifecycle.ProxyVariable) != "":
		os.Exit(lifecycle.ProxyMain())
	}
	a := &app{begin: time.Now()}
	if err := a.command().Execute(); err != nil {
		a.report(err)
		os.Exit(lifecycle.StatusOf(err))
	}
	os.Exit(a.status)
}

// report writes err where the caller looks for it: standard error, and the --log file, in runc's forms.
func (a *app) report(err error) {
	if a.log == "" {
		fmt.Fprintln(os.Stderr, textEntry(err))
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if logErr := a.appendLog(err); logErr != nil && logErr.Error() != err.Error() {
		fmt.Fprintln(os.Stderr, logErr)
	}
}
