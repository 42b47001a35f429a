package guest

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// scheduling sets how and where the process runs, and its personality: all of them this thread's, and the process's
// with its execve.
func (e *execution) scheduling() error {
	if set := e.p.CPUs; set != 0 {
		var cpus unix.CPUSet
		for n := range 64 {
			if set>>n&1 == 1 {
				cpus.Set(n)
			}
		}
		// The kernel leaves out those that are not there, and refuses when none is left.
		if err := unix.SchedSetaffinity(0, &cpus); err != nil {
			return wrap("set CPU affinity to the mask 0x"+strconv.FormatUint(set, 16), err)
		}
	}
	if p := e.p.IOPriority; p != 0 {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(p)); errno != 0 {
			return wrap("set I/O priority", os.NewSyscallError("ioprio_set", errno))
		}
	}
	if p := e.p.Personality; p != 0 {
		if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uintptr(p), 0, 0); errno != 0 {
			return os.NewSyscallError("personality", errno)
		}
	}
	return e.schedule()
}

// schedule comes last: a thread with a deadline must not start further ones.
func (e *execution) schedule() error {
	s := e.p.Scheduler
	if !s.Set {
		return nil
	}
	attr := &unix.SchedAttr{
		Policy: s.Policy, Flags: s.Flags, Nice: s.Nice, Priority: s.Priority,
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	return wrap("set scheduler", os.NewSyscallError("sched_setattr", unix.SchedSetAttr(0, attr, 0)))
}
