package guest

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// runHooks runs the startContainer hooks. They are children of the process, which is all but executed: they have its
// root, user, capabilities, limits and filter, and by their own choice not even its environment.
func (e *execution) runHooks() error {
	for i := range e.hooks {
		if err := runHook(&e.hooks[i], e.state); err != nil {
			return wrap("error running startContainer hook #"+strconv.Itoa(i), err)
		}
	}
	return nil
}

// maxHookOutput is how much of a hook's output an error repeats, in bytes of each stream.
const maxHookOutput = 32 << 10

// runHook runs one hook. Its streams are files in memory: whatever it leaves running cannot keep this waiting.
func runHook(h *agent.Hook, state string) error {
	var files [3]int
	for i := range files {
		fd, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		defer unix.Close(fd)
		files[i] = fd
	}
	if _, err := unix.Pwrite(files[0], []byte(state), 0); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	for _, fd := range files[1:] {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	argv := h.Args
	if len(argv) == 0 {
		argv = []string{h.Path}
	}
	pid, err := syscall.ForkExec(h.Path, argv, &syscall.ProcAttr{
		Env:   append([]string{}, h.Env...),
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		// A group of its own, so that the end of its time is that of its children, too.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return &os.PathError{Op: "fork/exec", Path: h.Path, Err: err}
	}
	status, err := waitHook(pid, h.Seconds)
	if err != nil {
		return err
	}
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	text := "exit status " + strconv.Itoa(status.ExitStatus())
	if status.Signaled() {
		text = "signal: " + status.Signal().String()
	}
	return errors.New(text + ", stdout: " + beginning(files[1]) + ", stderr: " + beginning(files[2]))
}

// waitHook waits for a hook's end, or makes it when its seconds are over. Its status is collected last: until then
// nobody else can have its number.
func waitHook(pid int, seconds uint64) (status unix.WaitStatus, err error) {
	ended := make(chan error, 1)
	go func() {
		ended <- retry(func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) })
	}()
	var over <-chan time.Time
	if limit := time.Duration(seconds) * time.Second; limit > 0 {
		over = time.After(limit)
	}
	late := false
	select {
	case err = <-ended:
	case <-over:
		late = true
		_ = unix.Kill(-pid, unix.SIGKILL)
		err = <-ended
	}
	if err != nil {
		return 0, os.NewSyscallError("waitid", err)
	}
	err = retry(func() error { _, err := unix.Wait4(pid, &status, 0, nil); return err })
	if err == nil && late {
		err = errors.New("hook ran past specified timeout of " + strconv.FormatUint(seconds, 10) + ".0s")
	}
	return status, err
}

// beginning is what a hook wrote to a file first.
func beginning(fd int) string {
	b := make([]byte, maxHookOutput)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		return ""
	}
	return string(b[:n])
}
