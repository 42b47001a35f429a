package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// where tells where whole-VM tests run on this machine. GOVMM_TESTHOST_WHERE
// overrides it.
//
// TODO(kvm): ask package kvm's probe, which times a loop at CPL 0. Until then
// the modules tell: only these two run guest kernels natively.
func where() string {
	if w := os.Getenv("GOVMM_TESTHOST_WHERE"); w != "" {
		return w
	}
	if os.Getenv(insideEnv) != "" {
		return "direct"
	}
	for _, m := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat("/sys/module/" + m); err == nil {
			if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
				f.Close()
				return "direct"
			}
		}
	}
	return "testhost"
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
