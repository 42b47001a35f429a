package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/wire"
)

// command is the running command; stdin, stdout and stderr are our ends.
type command struct {
	pid    int
	stdin  *os.File
	stdout *os.File
	stderr *os.File // nil on a terminal
	tty    *os.File // nil without a terminal
}

func newCommand(st *wire.Start) (*command, error) {
	if len(st.Argv) == 0 {
		return nil, errors.New("no command")
	}
	exe, err := lookPath(st.Argv[0], st.Env, st.Dir)
	if err != nil {
		return nil, err
	}
	cmd := new(command)
	var theirs []*os.File
	if st.TTY {
		theirs, err = cmd.openTerminal(st.Rows, st.Cols)
	} else {
		theirs, err = cmd.openPipes()
	}
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{Dir: st.Dir, Env: st.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: st.TTY}}
	for _, f := range theirs {
		attr.Files = append(attr.Files, f.Fd())
	}
	cmd.pid, err = syscall.ForkExec(exe, st.Argv, attr)
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", exe, err)
	}
	return cmd, nil
}

// openPipes makes the three pipes. Their ends are made blocking by Fd, which
// is what a command expects; ours stay with the poller.
func (c *command) openPipes() (theirs []*os.File, err error) {
	theirs = make([]*os.File, 3)
	if theirs[0], c.stdin, err = os.Pipe(); err != nil {
		return nil, err
	}
	if c.stdout, theirs[1], err = os.Pipe(); err != nil {
		return nil, err
	}
	if c.stderr, theirs[2], err = os.Pipe(); err != nil {
		return nil, err
	}
	return theirs, nil
}

func (c *command) openTerminal(rows, cols uint16) (theirs []*os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, os.NewSyscallError("TIOCSPTLCK", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, os.NewSyscallError("TIOCGPTN", err)
	}
	// A second descriptor for input, so that end of file on one direction
	// does not close the other.
	in, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("F_DUPFD_CLOEXEC", err)
	}
	c.tty = os.NewFile(uintptr(fd), "/dev/ptmx")
	c.stdout, c.stdin = c.tty, os.NewFile(uintptr(in), "/dev/ptmx")
	c.resize(rows, cols)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return []*os.File{slave, slave, slave}, nil
}

// ended bounds how long copyOut waits for processes left behind.
func (c *command) ended() {
	for _, f := range []*os.File{c.stdout, c.stderr} {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(drainTime))
		}
	}
}

func (c *command) signal(sig syscall.Signal) { _ = syscall.Kill(-c.pid, sig) }

func (c *command) resize(rows, cols uint16) {
	if c.tty == nil || rows == 0 || cols == 0 {
		return
	}
	conn, err := c.tty.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// lookPath finds name in the PATH of env, relative to dir.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(list) {
			p := filepath.Join(d, name)
			if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", &exec.Error{Name: name, Err: unix.ENOENT}
}
