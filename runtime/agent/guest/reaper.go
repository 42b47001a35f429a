package guest

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper owns all waiting: one loop of wait4(-1), which also collects the orphans that fall to PID 1. Nothing else of
// this program may wait for a child, os/exec least of all: the loop would take its status.
type reaper struct {
	mu      sync.Mutex
	born    sync.Cond // a child was added
	waiters map[int]chan<- unix.WaitStatus
	alive   bool // children may exist
}

// start runs fork, which returns a new child's pid, and returns where its status will arrive. The lock is held, so that
// a status cannot be looked up before it is awaited.
func (r *reaper) start(fork func() (int, error)) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	if r.waiters == nil {
		r.waiters = map[int]chan<- unix.WaitStatus{}
	}
	c := make(chan unix.WaitStatus, 1)
	r.waiters[pid] = c
	r.alive = true
	if r.born.L != nil {
		r.born.Signal()
	}
	return pid, c, nil
}

func (r *reaper) run() {
	r.mu.Lock()
	r.born.L = &r.mu
	r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		r.mu.Lock()
		switch {
		case errors.Is(err, unix.ECHILD):
			// No child is left, and only start makes the next: an orphan needs an ancestor.
			for !r.alive {
				r.born.Wait()
			}
			r.alive = false
		case err == nil:
			if c, ok := r.waiters[pid]; ok {
				delete(r.waiters, pid)
				c <- status
			}
		}
		r.mu.Unlock()
	}
}
