// Package guest is what govmm-init does as PID 1 of the guest: it makes containers out of the messages of package agent,
// runs and reaps their processes and carries their standard streams.
//
// A container's first process begins as this very program, executed again as a "stage" in the container's new
// namespaces (stage.go). It makes the mounts and sets everything up, waits for the word to start and then executes the
// user's program. PID 1 itself holds no namespace of a container and resolves no path of one.
package guest

import (
	"crypto/rand"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// A Stream is a connection to the host.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Config is what differs between a guest and a test.
type Config struct {
	Dial   func() (Stream, error) // one more stream to the host's port
	Export func() (string, error) // mounts the exported tree at the first call, returns its directory
	// Scratch is an empty directory on which a container's root is mounted, in the container's mount namespace.
	Scratch string
	Cgroup  string // the cgroup above all containers, "" for no limits
	Phases  agent.Phases
	// Reset ends the machine. It does not return.
	Reset func()
}

// maxRequests bounds the requests that are carried out at one time.
const maxRequests = 64

type server struct {
	cfg    Config
	secret [agent.SecretSize]byte
	reaper reaper

	sendMu  sync.Mutex
	control Stream

	relayed chan struct{} // a slot for each relayed connection
	dialled chan struct{} // a slot for each whose stream the host has not answered yet
	grow    sync.Once     // watchMemory

	mu         sync.Mutex
	containers map[string]*container
}

// Run serves the host until the control stream ends, and returns why it did. The caller is PID 1 of its namespace, and
// has started no process.
func Run(cfg Config) error {
	s := &server{cfg: cfg, containers: map[string]*container{}, relayed: make(chan struct{}, agent.MaxRelayed), dialled: make(chan struct{}, maxDialled)}
	if _, err := rand.Read(s.secret[:]); err != nil {
		return err
	}
	go s.reaper.run()
	if err := s.hello(); err != nil {
		return err
	}
	slots := make(chan struct{}, maxRequests)
	for {
		id, m, err := agent.Read(s.control, agent.Host)
		if err != nil {
			return err
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.reply(id, s.carryOut(m))
			if _, ok := m.(*agent.Shutdown); ok {
				cfg.Reset()
			}
		}()
	}
}

func (s *server) hello() error {
	c, err := s.cfg.Dial()
	if err != nil {
		return err
	}
	s.control = c
	if _, err := (agent.StreamHeader{Control: true}).WriteTo(c); err != nil {
		return err
	}
	m := &agent.Hello{KernelRelease: release(), Phases: s.cfg.Phases, Secret: s.secret}
	m.Phases.Hello = BootTime()
	return s.send(0, m)
}

// dial opens stream id.
func (s *server) dial(id uint32) (Stream, error) {
	c, err := s.cfg.Dial()
	if err != nil {
		return nil, wrap("dial the host", err)
	}
	if _, err := (agent.StreamHeader{Secret: s.secret, ID: id}).WriteTo(c); err != nil {
		c.Close()
		return nil, wrap("dial the host", err)
	}
	return c, nil
}

func (s *server) send(id uint32, m agent.Message) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return agent.Write(s.control, id, m)
}

func (s *server) reply(id uint32, r *agent.Reply) {
	if err := s.send(id, r); errors.Is(err, agent.ErrTooLarge) {
		_ = s.send(id, &agent.Reply{Code: agent.Failed, Text: err.Error()})
	}
}

// carryOut never panics: PID 1's end would be the guest kernel's.
func (s *server) carryOut(m agent.Message) (r *agent.Reply) {
	defer func() {
		if p := recover(); p != nil {
			text := "a fault in the guest's init"
			if err, ok := p.(error); ok {
				text += ": " + err.Error()
			}
			r = &agent.Reply{Code: agent.Failed, Text: text}
		}
	}()
	r = new(agent.Reply)
	err := s.handle(m, r)
	if err == nil {
		return r
	}
	r = &agent.Reply{Code: agent.Failed, Text: err.Error()}
	var e *agent.Error
	if errors.As(err, &e) {
		r.Code = e.Code
	}
	return r
}

func (s *server) handle(m agent.Message, r *agent.Reply) error {
	switch m := m.(type) {
	case *agent.Configure:
		s.watchMemory(m.MaxMemory)
		return configure(m)
	case *agent.CreateContainer:
		return s.create(m, r)
	case *agent.StartContainer:
		return s.start(m.ID)
	case *agent.DeleteContainer:
		return s.remove(m.ID)
	case *agent.Exec:
		return s.exec(m, r)
	case *agent.Signal:
		return s.signal(m)
	case *agent.Resize:
		p, err := s.find(m.ID, m.ExecID)
		if err != nil {
			return err
		}
		return p.io.resize(m.Rows, m.Cols)
	case *agent.CloseStdin:
		p, err := s.find(m.ID, m.ExecID)
		if err != nil {
			return err
		}
		p.io.closeStdin()
		return nil
	case *agent.Plug:
		return plug()
	case *agent.Unplug:
		return unplug(m.Interface)
	case *agent.Network:
		network(m, r)
		return nil
	case *agent.Listen:
		return s.listen(m, r)
	case *agent.Connect:
		return s.connect(m)
	case *agent.SetTime:
		return setTime(m.RealtimeNS)
	case *agent.Update:
		return s.update(m)
	case *agent.Stats:
		c, err := s.container(m.ID)
		if err != nil {
			return err
		}
		r.Files = c.cgroup.stats()
		return nil
	case *agent.ListProcesses:
		return s.list(m.ID, r)
	case *agent.SyncFS:
		unix.Sync()
		return nil
	case *agent.Shutdown:
		s.shutdown()
		return nil
	}
	return &agent.Error{Code: agent.Invalid, Text: "unknown request"}
}

// shutdown ends every other process and leaves nothing unwritten.
func (s *server) shutdown() {
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	if dir, err := s.cfg.Export(); err == nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}
