// Package hostprobe tells whether a host's KVM can run micro-VMs, and what to do if it cannot.
package hostprobe

import (
	"errors"
	"fmt"
	"strings"

	"github.com/govmm/govmm/kvm"
)

// A Check is one thing that a host must have.
type Check struct {
	What   string // such as "/dev/kvm"
	Detail string // what was found
	Remedy string // what to do; empty if the check passed
}

// OK reports whether the check passed.
func (c Check) OK() bool { return c.Remedy == "" }

// needed are the capabilities without which a VM cannot be made, with what each is for.
var needed = []struct {
	cap  kvm.Cap
	name string
}{
	{kvm.CapIRQChip, "KVM_CAP_IRQCHIP (interrupt controllers in the kernel)"},
	{kvm.CapUserMemory, "KVM_CAP_USER_MEMORY (guest memory)"},
	{kvm.CapExtCPUID, "KVM_CAP_EXT_CPUID (processor features)"},
	{kvm.CapIRQFD, "KVM_CAP_IRQFD (interrupts from devices)"},
	{kvm.CapIOEventFD, "KVM_CAP_IOEVENTFD (notifications to devices)"},
	{kvm.CapTSCDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER (the guest's timer)"},
	{kvm.CapImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (stopping a vCPU)"},
	{kvm.CapClockSource, "KVM_CAP_CLOCKSOURCE (the guest's clock)"},
}

// MinRate is the least rate, in instructions a second, at which kernel code must run for a guest kernel to be of use.
// A KVM that emulates kernel code reaches some 2 million, the slowest that runs it (nested under full emulation) some
// 300 million.
const MinRate = 30e6

// Host checks the KVM device at path, each check only where the one before passed.
func Host(path string) []Check {
	sys, err := kvm.OpenPath(path)
	if err != nil {
		c := Check{What: path, Detail: err.Error(), Remedy: "use a host with KVM"}
		if e := (*kvm.OpenError)(nil); errors.As(err, &e) {
			c.Detail, c.Remedy = e.Err.Error(), e.Remedy
		}
		return []Check{c}
	}
	defer sys.Close()
	checks := []Check{{What: path, Detail: fmt.Sprintf("opens, KVM API version %d", kvm.APIVersion)}}
	c := capabilities(sys)
	checks = append(checks, c)
	if c.OK() {
		checks = append(checks, speed(sys))
	}
	return checks
}

func capabilities(sys *kvm.System) Check {
	c := Check{What: "capabilities"}
	var missing []string
	for _, n := range needed {
		if v, err := sys.CheckExtension(n.cap); err != nil || v == 0 {
			missing = append(missing, n.name)
		}
	}
	if len(missing) > 0 {
		c.Detail = "missing: " + strings.Join(missing, ", ")
		c.Remedy = "use Linux 5.15 or later, whose KVM has them"
		return c
	}
	c.Detail = fmt.Sprintf("all %d that are needed", len(needed))
	return c
}

func speed(sys *kvm.System) Check {
	c := Check{What: "kernel code"}
	rate, err := Rate(sys)
	switch {
	case err != nil:
		c.Detail = "a VM of a few instructions fails: " + err.Error()
		c.Remedy = "see the host's kernel log (dmesg), and check that virtualisation, or nested virtualisation in an outer VM, is turned on"
	case rate < MinRate:
		c.Detail = fmt.Sprintf("this host's KVM only emulates kernel code (%.1f million instructions a second)", rate/1e6)
		c.Remedy = "use a host whose processor offers VT-x or AMD-V to this system, or the test host (make testhost)"
	default:
		c.Detail = fmt.Sprintf("runs natively (%.0f million instructions a second)", rate/1e6)
	}
	return c
}
