// Package lifecycle carries out govmm-run's commands: it keeps runc's state machine over the store, forks monitors and
// calls them.
package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/cgroup"
	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/monitor"
)

// The refusals that engines and people know from runc.
var (
	ErrNotRunning     = control.ErrNotRunning
	ErrNotPaused      = control.ErrNotPaused
	ErrAlreadyRunning = control.ErrAlreadyRunning
	ErrHasStopped     = errors.New("cannot start a container that has stopped")
)

var errPausedPS = errors.New("the guest of a paused container does not answer: resume it, or use ps --format json for the host's process")

// killGrace is how long a guest has to end a container that was sent SIGKILL before the monitor itself is killed.
const killGrace = 2 * time.Second

// Runtime is what every command needs.
type Runtime struct {
	Store  *container.Store
	Kernel string // in place of the embedded guest kernel; empty for that
	Debug  bool
	Log    *slog.Logger
	// Cgroups says who makes the cgroups of new containers; with Rootless those go without that may not have one.
	Cgroups  cgroup.Driver
	Rootless bool
}

// locked loads a container and holds its lock while f runs.
func (r *Runtime) locked(id string, f func(*container.Container) error) error {
	c, err := r.Store.Load(id)
	if err != nil {
		return err
	}
	if err := c.Lock(); err != nil {
		return err
	}
	defer c.Unlock()
	if err := c.Reload(); err != nil {
		return err
	}
	return f(c)
}

func call(c *container.Container, req control.Request) (*control.Reply, error) {
	conn, err := control.Dial(c.Dir())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Call(req)
}

// Start lets a created container's process run. Where a service manager waits for the container, so does Start.
func (r *Runtime) Start(id string) error {
	ready, err := r.start(id)
	if err != nil {
		return err
	}
	return ready.wait()
}

func (r *Runtime) start(id string) (ready *readiness, err error) {
	defer func() {
		if err != nil {
			ready.close()
		}
	}()
	err = r.locked(id, func(c *container.Container) error {
		switch s := c.Status(); s {
		case container.Created:
		case container.Stopped:
			return ErrHasStopped
		case container.Running:
			return ErrAlreadyRunning
		default:
			return fmt.Errorf("cannot start a container in the %s state", s)
		}
		ready = r.watchReady(c)
		// Before the process runs: one that ends at once must not be seen as created.
		c.State.Started = true
		if err := c.Save(); err != nil {
			return err
		}
		if _, err := call(c, control.Request{Op: control.OpStart}); errors.Is(err, ErrAlreadyRunning) {
			return err // a start that was killed meanwhile has come through
		} else if err != nil {
			c.State.Started = false
			_ = c.Save()
			if errors.Is(notRunning(c, err), ErrNotRunning) {
				return ErrHasStopped
			}
			return fmt.Errorf("unable to start container process: %w", err)
		}
		return r.poststart(c)
	})
	return ready, err
}

// Kill sends a signal to the container's process, or to all of its processes. SIGKILL always works: a monitor that
// does not answer in time is killed itself. All of the processes of a stopped container are none, and no error.
func (r *Runtime) Kill(id string, signal unix.Signal, all bool) error {
	c, err := r.alive(id)
	if all && errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := call(c, control.Request{Op: control.OpKill, Signal: int(signal), All: all})
		done <- err
	}()
	if signal != unix.SIGKILL {
		return notRunning(c, <-done)
	}
	select {
	case err = <-done:
	case <-time.After(killGrace):
		err = errors.New("the monitor does not answer")
	}
	// One that ended by itself just now is left to write out what it has and to report its own status.
	if (err == nil || errors.Is(err, ErrNotRunning)) && waitStopped(c, killGrace) {
		return nil
	}
	return killMonitor(c)
}

// notRunning says runc's word when a call failed because the container ended under it.
func notRunning(c *container.Container, err error) error {
	if gone(err) || err != nil && c.Status() == container.Stopped {
		return ErrNotRunning
	}
	return err
}

// gone says whether a call failed because nobody serves the socket any more: a monitor's descriptors are closed a little
// before its state is that of a dead process.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// killMonitor ends the monitor, and with it the VM, and waits until it is gone.
func killMonitor(c *container.Container) error {
	fd, err := unix.PidfdOpen(c.State.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		// The start time is compared after the descriptor is held: it cannot be another process's by now.
		if c.Status() == container.Stopped {
			return nil
		}
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the monitor: %w", err)
	}
	if !waitStopped(c, 10*time.Second) {
		return fmt.Errorf("monitor %d does not end after SIGKILL", c.State.PID)
	}
	return nil
}

func waitStopped(c *container.Container, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if c.Status() == container.Stopped {
			return true
		}
	}
	return c.Status() == container.Stopped
}

// Delete removes a container that has stopped, or that was created and never started. With force it kills a running
// one, removes one whose state is damaged, and an unknown id is no error.
func (r *Runtime) Delete(id string, force bool) error {
	if force {
		// Without the lock, which a start holds for as long as its hooks run: what it waits for ends with the monitor.
		if c, err := r.Store.Load(id); err == nil && c.State.PID != 0 && c.Status() != container.Stopped {
			_ = killMonitor(c) // tried again below
		}
	}
	err := r.locked(id, func(c *container.Container) error {
		s := c.Status()
		if s != container.Stopped && s != container.Created && !force {
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
		}
		if s != container.Stopped {
			if err := killMonitor(c); err != nil {
				return err
			}
		}
		if err := c.State.Cgroup.Remove(); err != nil {
			if !force {
				return err
			}
			r.Log.Warn("a cgroup stays", "error", err)
		}
		return r.remove(c)
	})
	switch {
	case force && errors.Is(err, container.ErrNotExist):
		return nil
	case force && errors.Is(err, container.ErrDamaged):
		return r.deleteDamaged(id)
	}
	return err
}

// deleteDamaged removes a container whose monitor nobody can name any more: whoever answers on its socket is told to end.
func (r *Runtime) deleteDamaged(id string) error {
	c, err := r.Store.Load(id)
	if !errors.Is(err, container.ErrDamaged) {
		return err
	}
	if err := c.Lock(); err != nil {
		return err
	}
	defer c.Unlock()
	for end := time.Now().Add(5 * killGrace); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		conn, err := control.Dial(c.Dir())
		if err != nil {
			r.removeOwnCgroup(id, end) // nobody listens
			return c.Remove()
		}
		limit := time.AfterFunc(killGrace, func() { conn.Close() })
		_, _ = conn.Call(control.Request{Op: control.OpKill, Signal: int(unix.SIGKILL), All: true})
		limit.Stop()
		conn.Close()
	}
	return fmt.Errorf("the state of %s is damaged and its monitor does not end: kill it (%s=%s is in its environment) and delete again",
		id, monitor.IDVariable, id)
}

// removeOwnCgroup removes the cgroup that a container gets which names none: nothing else can be found without its state. The
// monitor that has just closed its socket may be in it until it has ended.
func (r *Runtime) removeOwnCgroup(id string, end time.Time) {
	g, err := cgroup.Plan(r.Cgroups, "", id)
	for ; err != nil && time.Now().Before(end); g, err = cgroup.Plan(r.Cgroups, "", id) {
		time.Sleep(20 * time.Millisecond)
	}
	if err == nil {
		err = g.Remove()
	}
	if err != nil {
		r.Log.Warn("a cgroup stays", "error", err)
	}
}

// Pause stops the container's vCPUs.
func (r *Runtime) Pause(id string) error {
	return r.setPaused(id, container.Running, control.OpPause, true, ErrNotRunning)
}

// Resume lets a paused container go on.
func (r *Runtime) Resume(id string) error {
	return r.setPaused(id, container.Paused, control.OpResume, false, ErrNotPaused)
}

func (r *Runtime) setPaused(id string, want container.Status, op control.Op, paused bool, refusal error) error {
	return r.locked(id, func(c *container.Container) error {
		switch s := c.Status(); {
		case s == container.Created && paused: // as runc does
		case !paused && (s == container.Created || s == container.Running):
			// As in Start: after a resume that was killed the monitor alone knows of the pause.
			if _, err := call(c, control.Request{Op: op}); err != nil {
				return refusal
			}
			return nil
		case s != want:
			return refusal
		}
		// Recorded first: without room for the new state the old one goes on being true.
		c.State.Paused = paused
		if err := c.Save(); err != nil {
			return err
		}
		if _, err := call(c, control.Request{Op: op}); err != nil && !errors.Is(err, ErrNotPaused) {
			c.State.Paused = !paused
			_ = c.Save()
			return notRunning(c, err)
		}
		return nil
	})
}

// withProcesses loads a container for ps, nil if it has stopped.
func (r *Runtime) withProcesses(id string) (*container.Container, error) {
	c, err := r.Store.Load(id)
	if err != nil {
		return nil, err
	}
	switch c.Status() {
	case container.Stopped:
		return nil, nil
	case container.Creating:
		return nil, ErrNotRunning
	}
	return c, nil
}

// HostProcesses returns the processes that stand for the container's on the host: its monitor, and those of execs.
// A stopped container has none.
func (r *Runtime) HostProcesses(id string) ([]int, error) {
	c, err := r.withProcesses(id)
	if err != nil || c == nil {
		return nil, err
	}
	reply, err := call(c, control.Request{Op: control.OpPIDs})
	if err != nil {
		return nil, notRunning(c, err)
	}
	return append([]int{c.State.PID}, reply.PIDs...), nil
}

// Processes asks the guest for the container's processes. A stopped container has none.
func (r *Runtime) Processes(id string) ([]control.Process, error) {
	c, err := r.withProcesses(id)
	if err != nil || c == nil {
		return nil, err
	}
	if c.Status() == container.Paused {
		return nil, errPausedPS
	}
	reply, err := call(c, control.Request{Op: control.OpPS})
	if err != nil {
		return nil, notRunning(c, err)
	}
	return reply.Processes, nil
}

// alive loads a container that has a monitor.
func (r *Runtime) alive(id string) (*container.Container, error) {
	c, err := r.Store.Load(id)
	if err != nil {
		return nil, err
	}
	if s := c.Status(); s == container.Stopped || s == container.Creating {
		return nil, ErrNotRunning
	}
	return c, nil
}

// State loads one container.
func (r *Runtime) State(id string) (*container.Container, error) { return r.Store.Load(id) }

// undo takes back a create that failed; its own error matters more.
func (r *Runtime) undo(c *container.Container) {
	_ = c.State.Cgroup.Remove()
	_ = r.remove(c)
}
