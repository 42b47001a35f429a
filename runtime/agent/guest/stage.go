package guest

import (
	"errors"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// StageName is args[0] of a stage: main calls Stage when it finds it there.
const StageName = "govmm-init: stage"

// Stage sets a process of a container up and becomes it. It runs in the container's namespaces, save for those that it
// still has to join, and on one thread: what it changes (root, credentials, namespaces) is that thread's, and the
// thread's execve makes it the process's.
func Stage() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // too short a life for it
	// The container's processes may see this one: not its descriptors and memory.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	for fd := stageSync; fd <= stagePID; fd++ {
		unix.CloseOnExec(fd)
	}
	if err := stageMain(); err != nil {
		r := &agent.Reply{Code: agent.CodeOf(err), Text: err.Error()}
		if b, err := agent.Append(nil, 0, r); err == nil {
			_ = writeAll(stageSync, b)
		}
		os.Exit(1)
	}
}

func stageMain() error {
	sync := &fdReader{fd: stageSync}
	_, m, err := agent.Read(sync, agent.Host)
	if err != nil {
		return err
	}
	e := &execution{}
	switch m := m.(type) {
	case *agent.CreateContainer:
		e.p, e.hooks, e.state = &m.Process, m.Hooks, m.HookState
		if err = e.early(); err == nil {
			err = e.makeContainer(m)
		}
	case *agent.Exec:
		e.p = &m.Process
		if err = e.early(); err == nil {
			err = e.joinContainer()
		}
	default:
		err = failure(agent.Invalid, "not a stage's request")
	}
	if err != nil {
		return err
	}
	if err := e.finish(); err != nil {
		return err
	}
	if err := e.ready(); err != nil {
		return err
	}
	if _, m, err = agent.Read(sync, agent.Host); err != nil {
		return err
	}
	if _, ok := m.(*agent.StartContainer); !ok {
		return failure(agent.Invalid, "not a stage's request")
	}
	return e.exec()
}

// execution is the process that a stage becomes.
type execution struct {
	p       *agent.Process
	master  int   // of the terminal, when p.Terminal
	sockets []int // listening, to be relayed by PID 1
	path    string
	env     []string
	hooks   []agent.Hook // run before the program
	state   string       // what they read
}

// early does what needs PID 1's own procfs.
func (e *execution) early() error {
	adj := int32(0) // PID 1's own is -1000, and inherited
	if e.p.SetOOMScoreAdj {
		adj = e.p.OOMScoreAdj
	}
	if err := writeFile("/proc/self/oom_score_adj", strconv.Itoa(int(adj))); err != nil {
		return wrap("set oom_score_adj", err)
	}
	return wrap("make a time namespace", e.shiftTime())
}

// shiftTime makes the time namespace that execve will enter, or fork and execve of a hook. A further process cannot join
// the first one's, which takes a process of one thread: it gets one of its own with the same offsets.
func (e *execution) shiftTime() error {
	if len(e.p.TimeOffsets) == 0 {
		return nil
	}
	if r := release(); !atLeast(r, 6, 3) {
		return failure(agent.Failed, "execve enters one from Linux 6.3 on, the guest's kernel is "+r)
	}
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// The file belongs to a task, though /proc shows it for a process: for this thread under its own number.
	self, err := os.Readlink("/proc/thread-self")
	if err != nil {
		return err
	}
	var text string
	for _, o := range e.p.TimeOffsets {
		text += o.Clock + " " + strconv.FormatInt(o.Seconds, 10) + " " + strconv.FormatUint(uint64(o.Nanoseconds), 10) + "\n"
	}
	return writeFile("/proc/"+path.Base(self)+"/timens_offsets", text)
}

func (e *execution) joinContainer() error {
	// A thread that shares its root and working directory with others cannot change its mount namespace (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	err := unix.Setns(stagePID, unix.CLONE_NEWNS)
	if errors.Is(err, unix.ESRCH) { // the container's first process has ended meanwhile
		return failure(agent.NotRunning, "cannot exec in a stopped container")
	}
	if err != nil {
		return os.NewSyscallError("setns", err)
	}
	if !e.p.Terminal {
		return nil
	}
	root, err := openRoot("/")
	if err != nil {
		return err
	}
	defer root.close()
	_, err = e.openTerminal(root)
	return err
}

// ready tells PID 1 that only the word to start is missing, and hands it the terminal and the sockets.
func (e *execution) ready() error {
	b, err := agent.Append(nil, 0, new(agent.Reply))
	if err != nil {
		return err
	}
	var fds []int
	if e.p.Terminal {
		fds = append(fds, e.master)
	}
	var oob []byte
	if fds = append(fds, e.sockets...); len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(stageSync, b, oob, nil, unix.MSG_NOSIGNAL)
	return os.NewSyscallError("sendmsg", err)
}

// exec becomes the program. It returns only on failure.
func (e *execution) exec() error {
	defaultSignals()
	if e.p.NoNewPrivileges {
		if err := e.installSeccomp(); err != nil {
			return err
		}
	}
	if err := e.runHooks(); err != nil {
		return err
	}
	if err := syscall.Exec(e.path, e.p.Args, e.env); err != nil {
		err = error(&os.PathError{Op: "exec", Path: e.path, Err: err})
		if errors.Is(err, unix.ENOENT) {
			return &agent.Error{Code: agent.NoProgram, Text: err.Error()}
		}
		return &agent.Error{Code: agent.NotExecutable, Text: err.Error()}
	}
	return nil
}
