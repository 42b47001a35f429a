package oci

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// schedulers are the scheduling policies (sched_setattr(2)). SCHED_ISO is in the specification, but in no kernel.
var schedulers = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: 5,
	specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork:  unix.SCHED_FLAG_RESET_ON_FORK,
	specs.SchedFlagReclaim:      unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun:    unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy:   unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// checkScheduler has runc's rules, and its words.
func checkScheduler(s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	if _, ok := schedulers[s.Policy]; !ok {
		if s.Policy == "" {
			return fmt.Errorf("scheduler policy is required")
		}
		return fmt.Errorf("invalid scheduler policy: %s", s.Policy)
	}
	realTime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
	switch {
	case s.Nice < -20 || s.Nice > 19:
		return fmt.Errorf("invalid scheduler.nice: %d when the policy is %s", s.Nice, s.Policy)
	case s.Priority != 0 && !realTime:
		return fmt.Errorf("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
	case s.Priority < 0 || s.Priority > 99:
		return fmt.Errorf("invalid scheduler.priority: %d is not between 1 and 99", s.Priority)
	case s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		return fmt.Errorf("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
	}
	for _, f := range s.Flags {
		if _, ok := schedulerFlags[f]; !ok {
			return fmt.Errorf("invalid scheduler flag: %s", f)
		}
	}
	return nil
}

func guestScheduler(s *specs.Scheduler) (out agent.Scheduler) {
	if s == nil {
		return out
	}
	out = agent.Scheduler{
		Set: true, Policy: schedulers[s.Policy], Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		out.Flags |= schedulerFlags[f]
	}
	return out
}

// ioClasses are the I/O scheduling classes (ioprio_set(2)).
var ioClasses = map[specs.IOPriorityClass]uint16{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

func checkIOPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	if _, ok := ioClasses[p.Class]; !ok {
		return fmt.Errorf("invalid ioPriority.Class: %s", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("invalid ioPriority.Priority: %d", p.Priority)
	}
	return nil
}

const ioClassShift = 13 // IOPRIO_CLASS_SHIFT of <linux/ioprio.h>

func guestIOPriority(p *specs.LinuxIOPriority) uint16 {
	if p == nil {
		return 0
	}
	return ioClasses[p.Class]<<ioClassShift | uint16(p.Priority)
}

// affinity returns the CPUs of a list such as "0-2,7", bit n for CPU n. A list counts in the guest's CPUs; those that
// no guest has are left out.
func affinity(list string) (uint64, error) {
	if list == "" {
		return 0, nil
	}
	members, err := parseList(list)
	if err != nil {
		return 0, err
	}
	var set uint64
	for n := range maxCPUs {
		if members[n] {
			set |= 1 << n
		}
	}
	if set == 0 {
		return 0, fmt.Errorf("no CPU of %q can be in a guest: they are numbered from 0", list)
	}
	return set, nil
}

// execAffinity is where a process of exec may run. runc sets initial before the process enters the container's cgroup
// and final afterwards; the kernel keeps what was asked for last.
func execAffinity(a *specs.CPUAffinity) (uint64, error) {
	if a == nil {
		return 0, nil
	}
	initial, err := affinity(a.Initial)
	if err != nil {
		return 0, fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	final, err := affinity(a.Final)
	if err != nil {
		return 0, fmt.Errorf("process.execCPUAffinity.final: %w", err)
	}
	if final != 0 {
		return final, nil
	}
	return initial, nil
}

// personalities are the execution domains (personality(2)).
var personalities = map[specs.LinuxPersonalityDomain]uint32{specs.PerLinux: 0, specs.PerLinux32: 8}

func checkPersonality(p *specs.LinuxPersonality) error {
	if p == nil {
		return nil
	}
	if _, ok := personalities[p.Domain]; !ok {
		return fmt.Errorf("invalid personality domain: %s", p.Domain)
	}
	return nil
}

func guestPersonality(l *specs.Linux) uint32 {
	if l == nil || l.Personality == nil {
		return 0
	}
	return personalities[l.Personality.Domain]
}

// checkLabels refuses SELinux labels where they would mean something: nothing in the guest is confined by them.
func checkLabels(process, mount string) error {
	switch {
	case process == "" && mount == "" || !selinux():
		return nil
	case process != "":
		return fmt.Errorf("config field process.selinuxLabel is not supported yet: SELinux is on and the label would confine nothing")
	}
	return fmt.Errorf("config field linux.mountLabel is not supported yet: SELinux is on and the label would confine nothing")
}

// selinux says whether the host enforces or reports by SELinux: engines fill in labels in any case.
var selinux = func() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}
