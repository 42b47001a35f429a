package monitor

import (
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/terminal"
)

// stdio are the host's ends of a process's streams. With a terminal in and out are the same file, err is nil.
type stdio struct {
	in, out, err *os.File
	tty          *os.File // whose window size is the terminal's
	terminal     bool
}

// openStdio returns the monitor's own streams, or a new terminal whose master goes over the console socket.
func openStdio(cfg *Config) (*stdio, error) {
	s := &stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, tty: os.Stdin, terminal: cfg.Spec.Process.Terminal}
	if cfg.ConsoleSocket == "" {
		return s, nil
	}
	slave, err := terminal.Own(cfg.ConsoleSocket)
	if err != nil {
		return nil, err
	}
	s.in, s.out, s.tty = slave, slave, slave
	return s, nil
}

// process is a process in the guest that this monitor feeds and drains.
type process struct {
	m      *monitor
	execID string
	stdio  *stdio
	ids    [3]uint32 // stream ids: stdin, stdout, stderr; with a terminal the first alone
	exited chan int
	// oomKilled tells, once the status has come, that the container's memory limit has killed.
	oomKilled bool
	output    [2]drain // stdout and stderr; with a terminal the first alone
}

func (m *monitor) newProcess(execID string, s *stdio) *process {
	return &process{m: m, execID: execID, stdio: s, exited: make(chan int, 1)}
}

// assignStreams reserves the stream ids that the guest will dial.
func (p *process) assignStreams(a *agent.Process) {
	p.ids[0] = p.m.guest.NewStream()
	if p.stdio.terminal {
		a.Console = p.ids[0]
		if size, ok := terminal.GetSize(p.stdio.tty); ok && a.Rows == 0 {
			a.Rows, a.Cols = size.Rows, size.Columns
		}
		return
	}
	p.ids[1], p.ids[2] = p.m.guest.NewStream(), p.m.guest.NewStream()
	a.Stdin, a.Stdout, a.Stderr = p.ids[0], p.ids[1], p.ids[2]
}

// attach starts the copying between the host's streams and the guest's, and the wait for the process's end.
func (p *process) attach() {
	ended := p.m.guest.Exited(p.m.cfg.ID, p.execID)
	in := p.stream(p.ids[0])
	if p.stdio.terminal {
		p.output[0].start(in, p.stdio.out) // a terminal's one stream goes both ways
		p.output[1].finish()
	} else {
		p.output[0].start(p.stream(p.ids[1]), p.stdio.out)
		p.output[1].start(p.stream(p.ids[2]), p.stdio.err)
	}
	go p.copyIn(in)
	go func() {
		defer close(p.exited)
		e, ok := <-ended
		if !ok {
			return // the VM ended: serve sees that
		}
		p.m.guest.Forget(p.m.cfg.ID, p.execID)
		p.output[0].await(e.StdoutBytes)
		p.output[1].await(e.StderrBytes)
		p.oomKilled = e.OOMKilled
		p.exited <- int(e.Status)
	}()
}

// stream returns how to wait for the stream with a reserved id. The agent hands each out once, this any number of times.
func (p *process) stream(id uint32) func() (net.Conn, error) {
	return sync.OnceValues(func() (net.Conn, error) { return p.m.guest.Stream(id) })
}

func (p *process) copyIn(wait func() (net.Conn, error)) {
	stream, err := wait()
	if err != nil {
		return
	}
	_, _ = copyBuffer(stream, p.stdio.in)
	if _, tty := terminal.GetSize(p.stdio.in); p.stdio.terminal && p.execID == "" && !tty {
		return // the end of a file is no terminal's end, which would hang up the container's; an exec's proxy sees to that itself
	}
	if half, ok := stream.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// copySize is how much one copy moves at a time, in bytes.
const copySize = 256 << 10

// copyBuffer is io.Copy with a buffer that is worth a packet.
func copyBuffer(dst io.Writer, src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, copySize))
}

func (p *process) signal(s unix.Signal, all bool) error {
	return p.m.guest.Signal(&agent.Signal{ID: p.m.cfg.ID, ExecID: p.execID, Signal: uint8(s), All: all})
}

func (p *process) resize(size terminal.Size) {
	_ = p.m.guest.Resize(&agent.Resize{ID: p.m.cfg.ID, ExecID: p.execID, Rows: size.Rows, Cols: size.Columns})
}
