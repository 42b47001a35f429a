package vmm

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// preferVCPUs makes every thread of the process but the vCPUs' a batch thread (SCHED_BATCH, sched(7)), once a device calls itself busy.
//
// A guest that sends or receives a stream of frames wakes its device's worker for each of them. Where no other CPU is free the worker, which
// has slept and so is due, would take the CPU from the vCPU at the first frame, empty the queue of that one, and sleep again: a kick, two
// switches and several system calls for each frame. A batch thread waits until the vCPU has no more to do or its slice is over, and then finds
// many. Where a CPU is free it runs there at once, as before.
//
// It is not done before: while a guest starts, what its vCPU waits for should run soon. Where somebody has chosen a policy for the
// process, as by chrt(1), all threads keep it. Later threads inherit from those that make them.
func (v *VM) preferVCPUs() {
	if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Policy != unix.SCHED_NORMAL || v.batch.Swap(true) {
		return
	}
	// A /proc of another PID namespace than ours names the threads otherwise.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			changePolicy(tid, unix.SCHED_NORMAL, unix.SCHED_BATCH)
		}
	}
	for _, c := range v.cpus {
		if tid := int(c.tid.Load()); tid != 0 {
			changePolicy(tid, unix.SCHED_BATCH, unix.SCHED_NORMAL)
		}
	}
}

// changePolicy gives a thread another scheduling policy if it has the one that is expected. A failure costs speed alone.
func changePolicy(tid int, from, to uint32) {
	if a, err := unix.SchedGetAttr(tid, 0); err == nil && a.Policy == from {
		a.Policy = to
		_ = unix.SchedSetAttr(tid, a, 0)
	}
}
