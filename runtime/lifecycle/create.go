package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/monitor"
	"github.com/govmm/govmm/runtime/namespace"
	"github.com/govmm/govmm/runtime/oci"
)

// CreateOptions are the arguments of create and run.
type CreateOptions struct {
	ID, Bundle    string
	PIDFile       string
	ConsoleSocket string
	// Phases asks the monitor for a table of the start's phases on standard error; Begin is when this call began.
	Phases monitor.PhaseFormat
	Begin  time.Time
	// Foreground says that the caller stays and serves the terminal on its own standard streams.
	Foreground bool
}

// created is a container whose monitor this process has just forked.
type created struct {
	*container.Container
	spec    *specs.Spec
	joined  joined
	manager bool // the last of the spec's mounts is that of NOTIFY_SOCKET
	monitor *os.Process
}

// Create makes a container whose process waits for Start.
func (r *Runtime) Create(o CreateOptions) error {
	c, err := r.create(o)
	if err != nil {
		return err
	}
	c.Unlock()
	return nil
}

func (r *Runtime) create(o CreateOptions) (*created, error) {
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	spec, err := oci.Load(bundle)
	if err != nil {
		return nil, err
	}
	if err := checkTerminal(spec, o); err != nil {
		return nil, err
	}
	if o.ConsoleSocket, err = absolute(o.ConsoleSocket); err != nil {
		return nil, err
	}
	spaces, err := openNamespaces(spec.Linux.Namespaces)
	if err != nil {
		return nil, err
	}
	defer spaces.close()
	if spec.Hostname == "" {
		if spec.Hostname, err = spaces.hostname(); err != nil {
			return nil, err
		}
	}
	if unknown := oci.UnknownCapabilities(spec.Process); len(unknown) > 0 {
		r.Log.Warn("ignoring unknown capabilities", "capabilities", unknown)
	}
	for _, what := range oci.Ignored(spec) {
		r.Log.Debug("ignoring " + what)
	}
	c, err := r.reserve(o.ID)
	if err != nil {
		return nil, err
	}
	if err := oci.AddResolvConf(spec, c.Dir()); err != nil {
		r.undo(c)
		c.Unlock()
		return nil, err
	}
	manager := oci.AddNotifySocket(spec, os.Getenv("NOTIFY_SOCKET"))
	made := &created{Container: c, spec: spec, joined: spaces, manager: manager}
	c.State.Resources = spec.Linux.Resources
	c.State.OCIVersion = spec.Version
	c.State.Bundle, c.State.Rootfs = bundle, spec.Root.Path
	c.State.Created = time.Now().UTC()
	c.State.Owner = ownerName()
	c.State.Annotations = spec.Annotations
	c.State.Terminal = spec.Process.Terminal
	c.State.Hooks = spec.Hooks
	if err := r.launch(made, o); err != nil {
		r.undo(c)
		c.Unlock()
		return nil, err
	}
	return made, nil
}

// absolute makes a path good for a process with another working directory; "" stays.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// reserve makes the state directory of id. What a create that was killed has left of it is removed.
func (r *Runtime) reserve(id string) (*container.Container, error) {
	c, err := r.Store.Create(id)
	if !errors.Is(err, container.ErrExist) {
		return c, err
	}
	if old, loadErr := r.Store.Load(id); loadErr != nil || !old.Abandoned() {
		return nil, err
	}
	err = r.locked(id, func(c *container.Container) error {
		if !c.Abandoned() {
			return container.ErrExist // another create was quicker
		}
		if err := c.State.Cgroup.Remove(); err != nil {
			return err
		}
		return r.remove(c)
	})
	if err != nil && !errors.Is(err, container.ErrNotExist) {
		return nil, err
	}
	return r.Store.Create(id)
}

// checkTerminal is runc's rule: a terminal needs somebody to serve it.
func checkTerminal(spec *specs.Spec, o CreateOptions) error {
	terminal := spec.Process.Terminal
	switch {
	case terminal && !o.Foreground && o.ConsoleSocket == "":
		return errors.New("cannot allocate tty if govmm-run will detach without setting console socket")
	case (!terminal || o.Foreground) && o.ConsoleSocket != "":
		return errors.New("cannot use console socket if govmm-run will not detach or allocate tty")
	}
	return nil
}

func ownerName() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.Username
	}
	return ""
}

// launch forks the monitor, waits until the guest holds the process ready, and records it.
func (r *Runtime) launch(c *created, o CreateOptions) (err error) {
	// A create that is told to end leaves nothing behind: with its monitor the wait for it ends, and everything is undone.
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	if err := r.makeCgroup(c); err != nil {
		return err
	}
	listener, err := control.Listen(c.Dir())
	if err != nil {
		return err
	}
	defer listener.Close()
	held, err := c.Hold()
	if err != nil {
		return err
	}
	defer held.Close()
	sync, err := c.fork(listener, held)
	if err != nil {
		return err
	}
	defer sync.Close()
	defer func() {
		if err != nil {
			_ = c.monitor.Kill()
			_, _ = c.monitor.Wait()
		}
	}()
	if err := c.joinCgroup(); err != nil {
		return err
	}
	if err := c.moveDevices(); err != nil {
		return err
	}
	unwatch := context.AfterFunc(ctx, func() { _ = c.monitor.Kill() })
	defer unwatch()
	err = c.converse(ctx, sync, &monitor.Config{
		ID: o.ID, Spec: c.spec, State: *hookState(c.Container, container.Creating, 0), Kernel: r.Kernel, ConsoleSocket: o.ConsoleSocket, Debug: r.Debug,
		Phases: o.Phases, Begin: o.Begin.UnixNano(), Cgroup: c.cgroupDir(), Manager: c.manager,
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return startError(err)
	}
	return c.handOver(ctx, sync, o.PIDFile)
}

// handOver records the container and lets its monitor live without this process, unless ctx ends before.
func (c *created) handOver(ctx context.Context, sync *control.Conn, pidFile string) error {
	err := c.record(pidFile)
	recorded := err == nil
	if recorded && ctx.Err() == nil {
		if err = sync.Send(control.Request{}); err != nil {
			err = startError(err)
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil && recorded && pidFile != "" {
		_ = os.Remove(pidFile)
	}
	return err
}

// startError adds runc's words to what the monitor reported, or says what an end without a report means.
func startError(err error) error {
	if gone(err) {
		return errors.New("unable to start container process: the monitor ended without a word: look for its message on standard error")
	}
	return fmt.Errorf("unable to start container process: %w", err)
}

// fork starts the monitor in its own namespaces and its cgroup, with our standard streams.
func (c *created) fork(listener *net.UnixListener, held *os.File) (*control.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	socket, err := listener.File()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer socket.Close()
	attr := &syscall.SysProcAttr{Cloneflags: cloneFlags(c.spec.Linux), Setsid: true}
	if group := c.State.Cgroup; group != nil && group.Clonable() {
		f, err := group.Open()
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer f.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(f.Fd())
	}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs, socket, held}
	if _, ok, _ := oci.UserNetwork(c.spec); ok {
		here, err := os.Open("/proc/self/ns/net")
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer here.Close()
		files = append(files, here) // as monitor.CallerFD
	}
	if err := sealDescriptors(); err != nil {
		ours.Close()
		return nil, err
	}
	err = namespace.Run(c.joined, func() (err error) {
		defer coarseTimers()()
		c.monitor, err = os.StartProcess("/proc/self/exe", c.spec.Process.Args, &os.ProcAttr{
			Dir:   "/",
			Env:   c.monitorEnv(),
			Files: files,
			Sys:   attr,
		})
		return err
	})
	if err != nil {
		ours.Close()
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("start the monitor: %w: namespaces take CAP_SYS_ADMIN: run as root", err)
		}
		return nil, fmt.Errorf("start the monitor: %w", err)
	}
	return ours, nil
}

// coarseTimers lets the timers of a process that this thread starts fire up to a millisecond late, which every thread of
// it inherits; the function that it returns ends that. While a vCPU runs, the Go runtime's own thread wakes every 20 us to
// look for work that KVM_RUN keeps from being done: with the default of 50 us that is 13,000 times a second.
func coarseTimers() (end func()) {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1_000_000, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the default again
		runtime.UnlockOSThread()
	}
}

// monitorEnv is the monitor's whole environment. GOMAXPROCS is set there, not by a call that stops the world: one more
// than the vCPUs, never 1, and never what Go would make of the cgroup's CPU limit.
func (c *created) monitorEnv() []string {
	cpus, err := oci.CPUs(c.spec)
	if err != nil {
		cpus = 1 // the monitor reports the error
	}
	return []string{monitor.IDVariable + "=" + c.State.ID, "GOMAXPROCS=" + strconv.Itoa(cpus+1)}
}

// sealDescriptors keeps what our caller left open, such as conmon's pipes, from what we start: an engine that waits for
// their end would wait for the container's.
func sealDescriptors() error {
	return os.NewSyscallError("close_range", unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
}

func socketPair() (*control.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, err := control.FromFile(os.NewFile(uintptr(fds[0]), "sync"))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "sync"), nil
}

// record writes the state and the pid file.
func (c *created) record(pidFile string) error {
	start, err := container.StartTime(c.monitor.Pid)
	if err != nil {
		return fmt.Errorf("the monitor ended: %w", err)
	}
	c.State.PID, c.State.StartTime = c.monitor.Pid, start
	if err := c.Save(); err != nil {
		return err
	}
	if pidFile == "" {
		return nil
	}
	return writePIDFile(pidFile, c.monitor.Pid)
}

// writePIDFile writes the pid without a newline, as runc does, and never half of it.
func writePIDFile(path string, pid int) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	err := os.WriteFile(tmp, strconv.AppendInt(nil, int64(pid), 10), 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}
