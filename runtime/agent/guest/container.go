package guest

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// container is one container; its fields are guarded by server.mu, except where said.
type container struct {
	id      string
	cgroup  cgroup // "" when limits are off; does not change
	init    *process
	execs   map[string]*process
	ended   bool
	started bool
	running bool // the program was executed
	// resources are those in force; the limit of processes comes when the process has started.
	resources agent.Resources
}

// process is a container's first or a further one.
type process struct {
	id, execID string
	pid        int
	pidfd      int // closed after exited
	stage      *stage
	io         stdio
	waited     <-chan unix.WaitStatus
	exited     chan struct{} // closed when the status was collected

	relays []*relay // of a container's first process, closed with it

	mu      sync.Mutex
	gone    bool // pidfd is closed
	pending unix.Signal
	killed  chan struct{} // closed by the host's SIGKILL
	kill    sync.Once
}

func (s *server) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, failure(agent.NotFound, "container does not exist")
}

// find returns a process; execID is "" for the container's first.
func (s *server) find(id, execID string) (*process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.init
	if execID != "" {
		p = c.execs[execID]
	}
	if p == nil {
		return nil, failure(agent.NotFound, "process does not exist")
	}
	return p, nil
}

func (s *server) create(m *agent.CreateContainer, r *agent.Reply) error {
	if !validID(m.ID) {
		return failure(agent.Invalid, "invalid container id")
	}
	c := &container{id: m.ID, execs: map[string]*process{}, resources: m.Resources}
	s.mu.Lock()
	if s.containers[m.ID] != nil {
		s.mu.Unlock()
		return failure(agent.Exists, "container with given ID already exists")
	}
	s.containers[m.ID] = c
	s.mu.Unlock()
	err := s.createIn(c, m)
	if err != nil {
		s.mu.Lock()
		delete(s.containers, m.ID)
		s.mu.Unlock()
		c.cgroup.remove()
		return err
	}
	r.PID = int32(c.init.pid)
	return nil
}

func (s *server) createIn(c *container, m *agent.CreateContainer) (err error) {
	export, err := s.cfg.Export()
	if err != nil {
		return wrap("mount the exported tree", err)
	}
	if c.cgroup, err = newCgroup(s.cfg.Cgroup, m.ID, m.Resources); err != nil {
		return err
	}
	if err := c.cgroup.restrict(m.DeviceRules); err != nil {
		return err
	}
	p, err := s.launch(m, &m.Process, launchIn{id: m.ID, cgroup: c.cgroup, export: export})
	if err != nil {
		return err
	}
	s.mu.Lock()
	c.init = p
	s.mu.Unlock()
	go s.watch(c, p)
	return nil
}

func (s *server) start(id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	p := c.init
	switch {
	case c.ended:
		err = failure(agent.NotRunning, "cannot start a container that has stopped")
	case c.started || p == nil:
		err = failure(agent.NotRunning, "cannot start an already running container")
	default:
		c.started = true
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := p.run(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.running = true
	return c.cgroup.limitPids(c.resources.PidsMax)
}

func (s *server) update(m *agent.Update) error {
	c, err := s.container(m.ID)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.apply(m.Resources); err != nil {
		_ = c.apply(again(c.resources)) // a part may be in force
		return err
	}
	c.resources = after(c.resources, m.Resources)
	return nil
}

// after are the limits in force after a change, which leaves what is 0 in it.
func after(r, change agent.Resources) agent.Resources {
	for _, limit := range []struct{ to, from *int64 }{
		{&r.MemoryMax, &change.MemoryMax}, {&r.MemorySwap, &change.MemorySwap}, {&r.MemoryLow, &change.MemoryLow}, {&r.PidsMax, &change.PidsMax},
	} {
		if *limit.from != 0 {
			*limit.to = *limit.from
		}
	}
	r.Files = change.Files
	return r
}

// again are limits that are to be in force whatever is now: what they do not limit has none.
func again(r agent.Resources) agent.Resources {
	r.Check = false
	for _, limit := range []*int64{&r.MemoryMax, &r.MemorySwap, &r.MemoryLow, &r.PidsMax} {
		if *limit == 0 {
			*limit = -1
		}
	}
	return r
}

// apply sets limits. The caller holds server.mu.
func (c *container) apply(r agent.Resources) error {
	if !c.running {
		r.PidsMax = 0
	}
	return c.cgroup.apply(r)
}

func (s *server) exec(m *agent.Exec, r *agent.Reply) error {
	c, err := s.container(m.ID)
	if err != nil {
		return err
	}
	s.mu.Lock()
	init, taken := c.init, c.execs[m.ExecID] != nil
	if c.ended || init == nil {
		err = failure(agent.NotRunning, "cannot exec in a stopped container")
	} else if taken || m.ExecID == "" {
		err = failure(agent.Exists, "exec with given ID already exists")
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// As runc does: the container's own cgroup, and where the container has enabled controllers below it, its first process's.
	group, fallback := c.cgroup, c.cgroup.of(init.pid)
	if m.Cgroup != "" {
		fallback = ""
		if group, err = c.cgroup.below(m.Cgroup); err != nil {
			return err
		}
	}
	p, err := s.launch(m, &m.Process, launchIn{id: m.ID, execID: m.ExecID, cgroup: group, fallback: fallback, join: init})
	if err != nil {
		return err
	}
	if err := p.run(); err != nil {
		p.abandon()
		return init.ending(err)
	}
	s.mu.Lock()
	c.execs[m.ExecID] = p
	s.mu.Unlock()
	r.PID = int32(p.pid)
	go s.watch(c, p)
	return nil
}

// drainTime is how long the output of a process that the host killed may take to go out.
const drainTime = 2 * time.Second

// watch waits for p's end and reports it.
func (s *server) watch(c *container, p *process) {
	status := <-p.waited
	close(p.exited)
	e := &agent.Exited{ID: p.id, ExecID: p.execID}
	e.Status, e.Signal = p.outcome(status)
	p.closeFD()
	abandon := make(chan struct{})
	settled := make(chan struct{})
	go func() {
		select {
		case <-settled:
		case <-p.killed:
			select {
			case <-settled:
			case <-time.After(drainTime):
				close(abandon)
			}
		}
	}()
	e.StdoutBytes, e.StderrBytes = p.io.settle(abandon)
	close(settled)
	p.io.close()
	p.endRelays()
	e.OOMKilled = c.cgroup.oomKilled()
	s.mu.Lock()
	if p.execID == "" {
		c.ended = true
	} else {
		delete(c.execs, p.execID)
	}
	s.mu.Unlock()
	_ = s.send(0, e)
}

func (s *server) remove(id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if !c.ended {
		s.mu.Unlock()
		return failure(agent.Invalid, "container is running")
	}
	delete(s.containers, id)
	s.mu.Unlock()
	c.cgroup.remove()
	return nil
}

// outcome is the status that a shell would show. A process that was signalled before it ran its program is this
// program still, whose own way to die does not matter.
func (p *process) outcome(status unix.WaitStatus) (code, signal uint8) {
	p.mu.Lock()
	pending := p.pending
	p.mu.Unlock()
	switch {
	case pending != 0:
		return 128 + uint8(pending), uint8(pending)
	case status.Signaled():
		return 128 + uint8(status.Signal()), uint8(status.Signal())
	}
	return uint8(status.ExitStatus()), 0
}

// run lets the stage execute the program, and tells what kept it from doing so.
func (p *process) run() error {
	err := p.stage.run()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.stage = nil
	p.mu.Unlock()
	return nil
}

// abandon ends a process that nobody watches, and waits for it.
func (p *process) abandon() {
	p.send(unix.SIGKILL)
	<-p.waited
	close(p.exited)
	p.closeFD()
	p.endRelays()
	p.io.close()
}

func (p *process) closeFD() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	unix.Close(p.pidfd)
	if p.stage != nil {
		p.stage.close()
	}
}

func (p *process) send(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return failure(agent.NotRunning, "process already finished")
	}
	if sig == unix.SIGKILL {
		p.kill.Do(func() { close(p.killed) })
	}
	if p.stage != nil && sig != 0 {
		if harmless(sig) {
			return nil
		}
		// PID 1 of a namespace ignores what it does not handle, and the Go runtime handles signals in its own way.
		p.pending = sig
		sig = unix.SIGKILL
	}
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return failure(agent.NotRunning, "process already finished")
	}
	return wrap("signal "+strconv.Itoa(int(sig)), err)
}

// harmless signals do not end a process that has no handler for them (signal(7)).
func harmless(sig unix.Signal) bool {
	switch sig {
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return true
	}
	return false
}

func (s *server) signal(m *agent.Signal) error {
	if m.Signal > 64 {
		return failure(agent.Invalid, "no such signal")
	}
	p, err := s.find(m.ID, m.ExecID)
	if err != nil {
		return err
	}
	sig := unix.Signal(m.Signal)
	if !m.All {
		return p.send(sig)
	}
	// The first process first: it may end of itself when the others do, and was not running then.
	others := s.members(m.ID)
	err = p.send(sig)
	for _, q := range others {
		if q != p.pid {
			_ = unix.Kill(q, sig)
		}
	}
	return err
}
