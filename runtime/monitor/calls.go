package monitor

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/runtime/terminal"
)

// execTable knows the execs.
type execTable struct {
	mu   sync.Mutex
	next uint64
	pids []int // of the host processes that stand for those that run
}

func (t *execTable) newID() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	return fmt.Sprintf("exec%d", t.next)
}

// add notes the host process of an exec until the function that it returns is called.
func (t *execTable) add(pid int) (remove func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pids = append(t.pids, pid)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		i := slices.Index(t.pids, pid)
		t.pids = slices.Delete(t.pids, i, i+1)
	}
}

func (t *execTable) list() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.pids)
}

// acceptCalls serves govmm-run's calls, each connection on its own.
func (m *monitor) acceptCalls() {
	for {
		c, err := m.listener.AcceptUnix()
		if err != nil {
			return
		}
		go m.answer(control.NewConn(c))
	}
}

// answer carries out a connection's one request.
func (m *monitor) answer(c *control.Conn) {
	defer c.Close()
	var r control.Request
	if err := c.Receive(&r); err != nil {
		return
	}
	if r.Op == control.OpExec {
		m.exec(c, &r)
		return
	}
	if r.Op == control.OpReady {
		m.awaitReady(c)
		return
	}
	m.answering.Add(1)
	defer m.answering.Add(-1)
	reply := control.Reply{}
	if err := m.carryOut(&r, &reply); err != nil {
		reply.Error = err.Error()
	}
	_ = c.Send(reply)
}

func (m *monitor) carryOut(r *control.Request, reply *control.Reply) error {
	switch r.Op {
	case control.OpStart:
		return m.start()
	case control.OpKill:
		return m.kill(unix.Signal(r.Signal), r.All)
	case control.OpPause:
		return m.pause()
	case control.OpResume:
		return m.resume()
	case control.OpResize:
		m.init.resize(terminal.Size{Rows: r.Rows, Columns: r.Columns})
		return nil
	case control.OpPIDs:
		reply.PIDs = m.execs.list()
		return nil
	case control.OpUpdate:
		var err error
		reply.Memory, err = m.update(r.Resources, r.Prepare)
		return err
	case control.OpStats:
		var err error
		reply.Stats, err = m.stats()
		return err
	case control.OpPS:
		var err error
		reply.Processes, err = m.processes()
		return err
	}
	return fmt.Errorf("unknown request %q", r.Op)
}

// start lets the container's process go.
func (m *monitor) start() error {
	// A start that was killed may not be done when the next one comes.
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.started.Load() {
		return control.ErrAlreadyRunning
	}
	if err := m.connect(); err != nil {
		return err
	}
	// Before the process runs: one that ends at once must not be seen as created.
	if err := container.Release(m.held); err != nil {
		return err
	}
	err := m.guest.Start(m.cfg.ID)
	m.started.Store(err == nil)
	if err != nil {
		_ = container.HoldAgain(m.held)
	}
	m.phases.end(phaseStart)
	return err
}

// kill signals the container's process, or all of them. A paused guest gets the signal when it is resumed, but for
// SIGKILL, which ends what does not run, too.
func (m *monitor) kill(s unix.Signal, all bool) error {
	if m.paused.Load() {
		if s != unix.SIGKILL {
			go func() { _ = m.init.signal(s, all) }()
			return nil
		}
		m.paused.Store(false)
		m.vm.Resume()
	}
	err := m.init.signal(s, all)
	if agent.CodeOf(err) == agent.NotRunning {
		return control.ErrNotRunning // what it has written is on its way out
	}
	return err
}

// waitAnswers gives calls that are being answered, such as the start of a process that ended at once, a moment to get
// their replies out before this process ends.
func (m *monitor) waitAnswers() {
	for range 1000 {
		if m.answering.Load() == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (m *monitor) processes() ([]control.Process, error) {
	list, err := m.guest.Processes(m.cfg.ID)
	if err != nil {
		return nil, err
	}
	out := make([]control.Process, len(list))
	for i, p := range list {
		out[i] = control.Process{
			PID: int(p.NSPID), PPID: int(p.PPID), UID: p.UID, TTY: ttyName(p.TTY),
			Started: p.BootTimeSeconds + int64(p.StartTime/100), CPU: int64(p.CPUTime / 100), Command: p.Command,
		}
	}
	return out, nil
}

// ttyName is how ps names a terminal: pts/N, or nothing.
func ttyName(dev uint32) string {
	major, minor := unix.Major(uint64(dev)), unix.Minor(uint64(dev))
	if major >= 136 && major < 144 {
		return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
	}
	return ""
}

// exec runs a process for the connection's other side: its descriptors are the process's streams, its end is the
// process's end.
func (m *monitor) exec(c *control.Conn, r *control.Request) {
	files := c.Files()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 3 || r.Process == nil {
		_ = c.Send(control.Reply{Error: "exec: three descriptors and a process are needed"})
		return
	}
	defer m.execs.add(r.PID)()
	p := m.newProcess(m.execs.newID(), &stdio{in: files[0], out: files[1], err: files[2], tty: files[0], terminal: r.Process.Terminal})
	if err := m.startExec(p, r); err != nil {
		_ = c.Send(control.Reply{Error: err.Error()})
		return
	}
	if err := c.Send(control.Reply{}); err != nil {
		_ = p.signal(unix.SIGKILL, false)
	}
	gone := make(chan struct{})
	go p.obey(c, gone)
	select {
	case status, ok := <-p.exited:
		if ok {
			_ = c.Send(control.Reply{Exited: true, Status: status})
		}
	case <-gone:
		// The proxy was killed: so is what it stands for.
		_ = p.signal(unix.SIGKILL, false)
		<-p.exited
	}
}

func (m *monitor) startExec(p *process, r *control.Request) error {
	process, err := oci.GuestExec(r.Process, m.cfg.Spec)
	if err != nil {
		return err
	}
	process.TimeOffsets = oci.TimeOffsets(m.cfg.Spec.Linux)
	p.assignStreams(&process)
	if err := m.guest.Exec(&agent.Exec{ID: m.cfg.ID, ExecID: p.execID, Cgroup: r.Cgroup, Process: process}); err != nil {
		return fmt.Errorf("unable to start container process: %w", err)
	}
	p.attach()
	return nil
}

// obey carries out what the proxy asks for, until it is gone.
func (p *process) obey(c *control.Conn, gone chan<- struct{}) {
	defer close(gone)
	for {
		var r control.Request
		if err := c.Receive(&r); err != nil {
			return
		}
		switch r.Op {
		case control.OpSignal:
			_ = p.signal(unix.Signal(r.Signal), false)
		case control.OpResize:
			p.resize(terminal.Size{Rows: r.Rows, Columns: r.Columns})
		}
	}
}
