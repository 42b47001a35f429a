package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"github.com/govmm/govmm/kvm/hostprobe"
)

// where tells where whole-VM tests run on this machine: "direct" if its KVM
// runs guest kernels natively. GOVMM_TESTHOST_WHERE overrides it.
func where() string {
	if w := os.Getenv("GOVMM_TESTHOST_WHERE"); w != "" {
		return w
	}
	for _, c := range hostprobe.Host("/dev/kvm") {
		if !c.OK() {
			return "testhost"
		}
	}
	return "direct"
}

// runDirect runs the command on this machine with the same environment rules
// for what it is given; nothing is taken away.
func runDirect(o *options) (int, error) {
	cmd := exec.Command(o.argv[0], o.argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Dir = o.dir
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws := exit.ProcessState; ws.ExitCode() >= 0 {
			return ws.ExitCode(), nil
		}
		return 128 + int(signalOf(exit.ProcessState)), nil
	}
	if err != nil {
		return statusFailure, err
	}
	return 0, nil
}

func signalOf(p *os.ProcessState) syscall.Signal { return p.Sys().(syscall.WaitStatus).Signal() }
