package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/runtime/terminal"
)

// ProxyVariable is the environment variable that makes the program the proxy of a detached exec, in the container that it
// names. As with the monitor, the arguments are those of the process.
const ProxyVariable = "GOVMM_EXEC"

// proxySyncFD is the descriptor on which a proxy reports that its process runs.
const proxySyncFD = 3

// ExecOptions are the arguments of exec; Process is complete.
type ExecOptions struct {
	ID            string
	Process       *specs.Process
	PIDFile       string
	ConsoleSocket string
	Cgroup        string // below the container's, in the guest; "" is that, or where its first process is
	Detach        bool
	IgnorePaused  bool
}

// proxyConfig is the first message to a proxy.
type proxyConfig struct {
	Dir           string         `json:"dir"`
	Process       *specs.Process `json:"process"`
	ConsoleSocket string         `json:"consoleSocket,omitempty"`
	Cgroup        string         `json:"cgroup,omitempty"`
}

// Exec runs a further process in a running container. Detached, a proxy process of its own stands for it: it ends with
// the process's status, and the process ends when the proxy is killed.
func (r *Runtime) Exec(o ExecOptions) (int, error) {
	c, err := r.ForExec(o.ID, o.IgnorePaused)
	if err != nil {
		return 0, ExecFailed(err)
	}
	if err := checkExec(o); err != nil {
		return 0, ExecFailed(err)
	}
	if o.ConsoleSocket, err = absolute(o.ConsoleSocket); err != nil {
		return 0, ExecFailed(err)
	}
	cfg := proxyConfig{Dir: c.Dir(), Process: o.Process, ConsoleSocket: o.ConsoleSocket, Cgroup: o.Cgroup}
	if o.Detach {
		if err := spawnProxy(cfg, o.PIDFile); err != nil {
			return 0, ExecFailed(notRunning(c, err))
		}
		return 0, nil
	}
	restore := rawTerminal(o.Process.Terminal)
	defer restore()
	var pidErr error
	status, err := proxy(cfg, func(err error) {
		if err == nil && o.PIDFile != "" {
			pidErr = writePIDFile(o.PIDFile, os.Getpid())
		}
	})
	if err = errors.Join(notRunning(c, err), pidErr); err != nil {
		return 0, ExecFailed(err)
	}
	return status, nil
}

// ForExec loads a container in which an exec is possible.
func (r *Runtime) ForExec(id string, ignorePaused bool) (*container.Container, error) {
	c, err := r.Store.Load(id)
	if err != nil {
		return nil, err
	}
	switch s := c.Status(); {
	case s == container.Stopped || s == container.Creating:
		return nil, errors.New("cannot exec in a stopped container")
	case s == container.Paused && !ignorePaused:
		return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	return c, nil
}

func checkExec(o ExecOptions) error {
	if err := oci.ValidateProcess(o.Process); err != nil {
		return err
	}
	switch {
	case o.Process.Terminal && o.Detach && o.ConsoleSocket == "":
		return errors.New("cannot allocate tty if govmm-run will detach without setting console socket")
	case (!o.Process.Terminal || !o.Detach) && o.ConsoleSocket != "":
		return errors.New("cannot use console socket if govmm-run will not detach or allocate tty")
	}
	return nil
}

// spawnProxy forks the proxy and waits until its process runs or cannot.
func spawnProxy(cfg proxyConfig, pidFile string) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer theirs.Close()
	if err := sealDescriptors(); err != nil {
		return err
	}
	runtime.LockOSThread()
	p, err := os.StartProcess("/proc/self/exe", cfg.Process.Args, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{ProxyVariable + "=" + filepath.Base(cfg.Dir)},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	runtime.UnlockOSThread()
	theirs.Close() // so that its end is seen
	if err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	if _, err := ours.Call(cfg); err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return err
	}
	if pidFile == "" {
		return nil
	}
	if err := writePIDFile(pidFile, p.Pid); err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return err
	}
	return nil
}

// ProxyMain is the whole life of a proxy; it returns the exit status.
func ProxyMain() int {
	_ = os.WriteFile("/proc/self/comm", []byte("govmm-exec"), 0)
	sync, err := control.FromFile(os.NewFile(proxySyncFD, "sync"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "govmm-exec: started by hand: use govmm-run exec")
		return 255
	}
	var cfg proxyConfig
	if err := sync.Receive(&cfg); err != nil {
		return 255
	}
	status, err := proxy(cfg, func(err error) {
		var reply control.Reply
		if err != nil {
			reply.Error = err.Error()
		}
		_ = sync.Send(reply)
		_ = sync.Close()
	})
	if err != nil {
		return 255
	}
	return status
}

// proxy asks the monitor to run the process, says when it runs, and stands for it until it ends.
func proxy(cfg proxyConfig, started func(error)) (int, error) {
	signals := catchSignals()
	defer signal.Stop(signals)
	files, tty, err := execFiles(cfg)
	if err != nil {
		started(err)
		return 0, err
	}
	conn, err := control.Dial(cfg.Dir)
	if gone(err) {
		err = ErrNotRunning
	}
	if err != nil {
		started(err)
		return 0, err
	}
	defer conn.Close()
	if size, ok := terminal.GetSize(tty); ok && cfg.Process.Terminal && cfg.Process.ConsoleSize == nil {
		cfg.Process.ConsoleSize = &specs.Box{Height: uint(size.Rows), Width: uint(size.Columns)}
	}
	_, err = conn.Call(control.Request{Op: control.OpExec, Process: cfg.Process, Cgroup: cfg.Cgroup, PID: os.Getpid()}, files...)
	files[0].Close()
	if gone(err) {
		err = ErrNotRunning // it ended meanwhile
	}
	started(err)
	if err != nil {
		return 0, err
	}
	go passSignals(conn, signals, tty, cfg.Process.Terminal)
	var end control.Reply
	if err := conn.Receive(&end); err != nil {
		if errors.Is(err, io.EOF) {
			return 128 + int(unix.SIGKILL), nil // the container ended, and the process with it
		}
		return 0, err
	}
	return end.Status, end.Err()
}

// execFiles returns the standard streams for the process, and the terminal whose size is its own. Input goes through a
// pipe that this process fills: the monitor must not be left waiting in a read of a terminal that is its user's again.
func execFiles(cfg proxyConfig) (std []*os.File, tty *os.File, err error) {
	std, tty = []*os.File{os.Stdin, os.Stdout, os.Stderr}, os.Stdin
	if cfg.ConsoleSocket != "" {
		if tty, err = terminal.Own(cfg.ConsoleSocket); err != nil {
			return nil, nil, err
		}
		std = []*os.File{tty, tty, tty}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	in := std[0]
	// The end of the pipe hangs the process's terminal up: that of a file is no terminal's end.
	_, hangsUp := terminal.GetSize(tty)
	go func() {
		_, _ = io.Copy(w, in)
		if cfg.Process.Terminal && !hangsUp {
			select {} // w stays open: not even the garbage collector may close it
		}
		w.Close()
	}()
	std[0] = r
	return std, tty, nil
}

func passSignals(conn *control.Conn, signals <-chan os.Signal, tty *os.File, isTerminal bool) {
	for s := range signals {
		switch s := s.(unix.Signal); s {
		case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE:
		case unix.SIGHUP:
			if !isTerminal {
				_ = conn.Send(control.Request{Op: control.OpSignal, Signal: int(s)})
			}
		case unix.SIGWINCH:
			if size, ok := terminal.GetSize(tty); ok && isTerminal {
				_ = conn.Send(control.Request{Op: control.OpResize, Rows: size.Rows, Columns: size.Columns})
			}
		default:
			_ = conn.Send(control.Request{Op: control.OpSignal, Signal: int(s)})
		}
	}
}
