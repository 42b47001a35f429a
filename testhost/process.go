package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// fdList numbers the files that a child inherits.
type fdList struct{ files []*os.File }

// add returns the descriptor number that f will have in the child.
func (l *fdList) add(f *os.File) int {
	l.files = append(l.files, f)
	return 2 + len(l.files)
}

func (l *fdList) close() {
	for _, f := range l.files {
		f.Close()
	}
}

// child is a helper process whose messages are kept for a report.
type child struct {
	cmd    *exec.Cmd
	name   string
	stderr tailBuffer
	done   chan struct{} // closed when the process has ended
	err    error         // of Wait, valid after done
}

// startChild must run on the main thread: the child dies with the thread that
// started it. Its own process group keeps the terminal's Ctrl-C away from it.
func startChild(name string, argv []string, fds *fdList) (*child, error) {
	c := &child{cmd: exec.Command(argv[0], argv[1:]...), name: name, done: make(chan struct{})}
	c.cmd.ExtraFiles = fds.files
	c.cmd.Stderr = &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// kill ends the process and waits for it.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 16 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(t.buf, []byte("?")))
}

// socketPair returns our end and the child's. Nothing of it has a name in the
// file system, so nothing can be left behind.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// listenerPair returns a listening socket and a socket connected to it, for a
// child that insists on accepting. The name is the kernel's choice, in the
// abstract namespace.
func listenerPair() (listener, connected *os.File, err error) {
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	listener = os.NewFile(uintptr(l), "listener")
	if err := unix.Bind(l, &unix.SockaddrUnix{}); err != nil {
		return nil, nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(l, 1); err != nil {
		return nil, nil, os.NewSyscallError("listen", err)
	}
	name, err := unix.Getsockname(l)
	if err != nil {
		return nil, nil, os.NewSyscallError("getsockname", err)
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	connected = os.NewFile(uintptr(c), "connected")
	if err := unix.Connect(c, name); err != nil {
		return nil, nil, os.NewSyscallError("connect", err)
	}
	return listener, connected, nil
}

// memoryFile returns an unnamed file in memory with the given content.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
