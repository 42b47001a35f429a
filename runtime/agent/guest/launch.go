package guest

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// launchIn says where a process is started.
type launchIn struct {
	id, execID string
	cgroup     cgroup
	fallback   cgroup   // where cgroup takes no process; "" is none
	export     string   // the exported tree, of a container's first process
	join       *process // the process whose namespaces a further one joins
}

// The stage's descriptors.
const (
	stageSync = 3 // the stage's end of its socket
	stagePID  = 4 // a pidfd of the process whose mount namespace it joins
)

// launch starts a stage, which sets m's process up and then waits for run.
func (s *server) launch(m agent.Message, p *agent.Process, in launchIn) (*process, error) {
	proc := &process{id: in.id, execID: in.execID, pidfd: -1, exited: make(chan struct{}), killed: make(chan struct{})}
	files, err := proc.io.open(p)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		files.close()
		proc.io.close()
		return nil, os.NewSyscallError("socketpair", err)
	}
	proc.stage = &stage{fd: pair[0]}
	err = s.fork(proc, files, pair[1], in)
	files.close()
	unix.Close(pair[1])
	if err != nil {
		unix.Close(pair[0])
		proc.io.close()
		return nil, err
	}
	received, err := proc.stage.setUp(m)
	var master *os.File
	if err == nil && p.Terminal && len(received) > 0 {
		master, received = pollable(received[0], "ptmx"), received[1:]
	}
	if err == nil {
		err = s.relay(proc, m, received)
	}
	if err == nil && in.join != nil {
		// Only now: the stage has several threads, and the limit of processes may leave room for one.
		if err = in.cgroup.add(proc.pid); err != nil && in.fallback != "" {
			err = in.fallback.add(proc.pid)
		}
	}
	if err == nil {
		err = proc.io.connect(s.dial, p, master)
	}
	if err != nil {
		proc.abandon()
		return nil, in.join.ending(err)
	}
	return proc, nil
}

// ending says what the early end of a further process means when p, a container's first one, has ended or is about to: the
// kernel ends all of a PID namespace before its first process.
func (p *process) ending(err error) error {
	if p == nil || !errors.Is(err, errStageEnded) {
		return err
	}
	select {
	case <-p.exited:
		return failure(agent.NotRunning, "cannot exec in a stopped container")
	case <-time.After(time.Second):
		return err
	}
}

// fork executes this program again, in new namespaces or in those of in.join.
func (s *server) fork(p *process, files ends, sync int, in launchIn) error {
	attr := &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2]), uintptr(sync)},
		Sys:   &syscall.SysProcAttr{PidFD: &p.pidfd},
	}
	argv := []string{StageName, s.cfg.Scratch, in.export}
	var err error
	if in.join == nil {
		attr.Sys.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		// The cgroup namespace's root is the cgroup of who makes it: after the child has entered its own.
		attr.Sys.Unshareflags = unix.CLONE_NEWCGROUP
		if dir := in.cgroup.open(); dir >= 0 {
			defer unix.Close(dir)
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, dir
		}
		p.pid, p.waited, err = s.reaper.start(func() (int, error) { return syscall.ForkExec("/proc/self/exe", argv, attr) })
		return wrap("start the container's process", err)
	}
	attr.Files = append(attr.Files, uintptr(in.join.pidfd))
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread enters the namespaces, its child inherits them; then the thread is thrown away with its goroutine.
		// The mount namespace is the stage's to join: /proc/self/exe must still be found here.
		runtime.LockOSThread()
		in.join.mu.Lock()
		defer in.join.mu.Unlock() // keeps the pidfd open
		if in.join.gone {
			err = failure(agent.NotRunning, "cannot exec in a stopped container")
			return
		}
		const spaces = unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
		if err = unix.Setns(in.join.pidfd, spaces); err != nil {
			if errors.Is(err, unix.ESRCH) {
				err = failure(agent.NotRunning, "cannot exec in a stopped container")
			}
			return
		}
		p.pid, p.waited, err = s.reaper.start(func() (int, error) { return syscall.ForkExec("/proc/self/exe", argv, attr) })
	}()
	<-done
	var e *agent.Error
	if errors.As(err, &e) {
		return err
	}
	return wrap("enter the container", err)
}

// stage is PID 1's end of a stage's socket.
type stage struct {
	mu sync.Mutex
	fd int
}

// setUp hands over what is to be set up and waits until it is. It returns the descriptors that the stage made: the
// terminal's master, if there is one, and the sockets to be relayed.
func (s *stage) setUp(m agent.Message) ([]int, error) {
	b, err := agent.Append(nil, 0, m)
	if err != nil {
		return nil, err
	}
	r := &fdReader{fd: s.fd}
	if err := writeAll(s.fd, b); err != nil {
		return nil, s.failed(r, err)
	}
	if err := reply(r); err != nil {
		return nil, s.failed(r, err)
	}
	return r.received, nil
}

var errStageEnded = errors.New("the container's process ended while it was set up")

func (s *stage) failed(r *fdReader, err error) error {
	closeAll(r.received)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) ||
		errors.Is(err, unix.ECONNRESET) { // ended with what we sent unread
		return errStageEnded
	}
	return err
}

// run lets the stage go on. Its end of the socket closes when the program is executed.
func (s *stage) run() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return failure(agent.NotRunning, "cannot start a container that has stopped")
	}
	defer func() {
		unix.Close(s.fd)
		s.fd = -1
	}()
	b, err := agent.Append(nil, 0, new(agent.StartContainer))
	if err != nil {
		return err
	}
	if err := writeAll(s.fd, b); err != nil {
		return s.failed(&fdReader{}, err)
	}
	r := &fdReader{fd: s.fd}
	if err = reply(r); err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return s.failed(r, err)
}

func (s *stage) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// reply reads a stage's answer.
func reply(r io.Reader) error {
	_, m, err := agent.Read(r, agent.Guest)
	if err != nil {
		return err
	}
	if a, ok := m.(*agent.Reply); ok && a.Code != agent.OK {
		return &agent.Error{Code: a.Code, Text: a.Text}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		var n int
		err := retry(func() (err error) {
			n, err = unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
			return err
		})
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		b = b[n:]
	}
	return nil
}

// fdReader reads from a socket and keeps the descriptors that come along.
type fdReader struct {
	fd       int
	received []int
}

func (r *fdReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxReceived))
	var n, noob int
	err := retry(func() (err error) {
		n, noob, _, _, err = unix.Recvmsg(r.fd, p, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, os.NewSyscallError("recvmsg", err)
	}
	if noob > 0 {
		r.keep(oob[:noob])
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *fdReader) keep(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) == 0 {
		return
	}
	if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil {
		r.received = append(r.received, fds...)
	}
}

// maxReceived is how many descriptors a stage may send: a terminal and the sockets.
const maxReceived = 1 + agent.MaxSockets

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
