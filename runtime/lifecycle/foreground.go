package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/terminal"
)

// RunOptions are the arguments of run.
type RunOptions struct {
	CreateOptions
	Detach bool
	Keep   bool // leave the stopped container for state and delete
}

// Run creates and starts a container. Unless it detaches, it waits for the container, passes signals on to it, and
// returns its exit status: 128 plus the number for a process that a signal ended.
func (r *Runtime) Run(o RunOptions) (int, error) {
	o.Foreground = !o.Detach
	// Those that end this process come to the container if they come after create's own watch, and so do changes of the
	// terminal's size, which the monitor reads.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(endSignals(), unix.SIGWINCH)...)
	defer signal.Stop(signals)
	c, err := r.create(o.CreateOptions)
	if err != nil {
		return 0, err
	}
	signal.Notify(signals)
	c.Unlock()
	restore := rawTerminal(o.Foreground && c.State.Terminal)
	defer restore()
	ready, err := r.start(o.ID)
	if err != nil {
		_ = r.Delete(o.ID, true)
		return 0, err
	}
	if o.Detach {
		return 0, ready.wait()
	}
	passed := ready.passAside()
	status := c.wait(signals)
	<-passed
	if o.Keep {
		return status, nil
	}
	err = c.Lock()
	if errors.Is(err, container.ErrNotExist) {
		return status, nil // a delete was quicker
	} else if err != nil {
		return status, err
	}
	defer c.Unlock()
	if err := c.State.Cgroup.Remove(); err != nil {
		return status, err
	}
	return status, r.remove(c.Container)
}

// endSignals are those with which people and engines end a process, but for those that our caller had it ignore, as
// nohup and a shell's & do. SIGTERM is always among them: an empty list would mean all signals.
func endSignals() []os.Signal {
	list := []os.Signal{unix.SIGTERM}
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGHUP} {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}

// catchSignals asks for every signal that can be caught and means something to a container.
func catchSignals() chan os.Signal {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch)
	return ch
}

// wait serves the foreground until the monitor ends.
func (c *created) wait(signals <-chan os.Signal) int {
	exited := make(chan int, 1)
	go func() {
		s, err := c.monitor.Wait()
		if err != nil {
			exited <- 255
			return
		}
		exited <- ExitStatus(s.Sys().(unixWaitStatus))
	}()
	for {
		select {
		case status := <-exited:
			return status
		case s := <-signals:
			c.forward(s.(unix.Signal))
		}
	}
}

func (c *created) forward(s unix.Signal) {
	switch s {
	case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE:
		// Go's own preemption, our children, and our own pipes.
	case unix.SIGWINCH:
		if size, ok := terminal.GetSize(os.Stdin); ok && c.State.Terminal {
			_, _ = call(c.Container, control.Request{Op: control.OpResize, Rows: size.Rows, Columns: size.Columns})
		}
	default:
		_, _ = call(c.Container, control.Request{Op: control.OpKill, Signal: int(s)})
	}
}

// rawTerminal makes standard input raw, if it is a terminal and wanted, and returns how to undo that.
func rawTerminal(wanted bool) func() {
	if !wanted {
		return func() {}
	}
	old, err := terminal.MakeRaw(os.Stdin)
	if err != nil {
		return func() {}
	}
	return func() { _ = terminal.Restore(os.Stdin, old) }
}

// unixWaitStatus is what the standard library's syscall.WaitStatus offers.
type unixWaitStatus interface {
	Exited() bool
	ExitStatus() int
	Signaled() bool
}

// ExitStatus is the shell's view of how a process ended.
func ExitStatus(s unixWaitStatus) int {
	if s.Exited() {
		return s.ExitStatus()
	}
	return 128 + int(unix.SIGKILL)
}

// exitError is how an error that ends a program with a status of its own travels to main.
type exitError struct {
	error
	status int
}

// Unwrap returns the error itself.
func (e exitError) Unwrap() error { return e.error }

// StatusOf returns the exit status that err asks for, 1 by default.
func StatusOf(err error) int {
	var e exitError
	if errors.As(err, &e) {
		return e.status
	}
	return 1
}

// ExecFailed is runc's way to fail an exec.
func ExecFailed(err error) error {
	return exitError{fmt.Errorf("exec failed: %w", err), 255}
}

// RunFailed gives the failure of a run the status that a shell would: 127 for a program that is not there, 126 for one
// that may not be run, 1 otherwise.
func RunFailed(err error) error {
	text := err.Error()
	switch {
	case !strings.Contains(text, "exec: "):
		return err
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return exitError{err, 127}
	case strings.Contains(text, "permission denied"):
		return exitError{err, 126}
	}
	return err
}
