// Command testhost runs a shell command as root in a Debian kernel that has
// working KVM, over a copy-on-write view of this machine. See -help.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/guest"
)

// Exit statuses of the runner itself; they are those of env and timeout.
const (
	statusTimeout = 124
	statusFailure = 125
)

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	// Parent-death signals belong to the thread that started the child, so
	// everything is started from this one.
	runtime.LockOSThread()
	os.Exit(run(os.Args[1:], os.Stderr))
}

func run(args []string, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	if errors.Is(err, errHelp) {
		return 0
	}
	if err != nil {
		return fail(stderr, err)
	}
	if o.where {
		fmt.Println(where())
		return 0
	}
	// `go run` dies of SIGTERM without telling its child.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
	if o.direct || os.Getenv(insideEnv) != "" {
		status, err := runDirect(o)
		if err != nil {
			return fail(stderr, err)
		}
		return status
	}
	r := &runner{opts: o, log: stderr}
	status, err := r.run()
	if err != nil {
		fail(stderr, err)
	}
	return status
}

func fail(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "testhost: %v\n", err)
	return statusFailure
}
