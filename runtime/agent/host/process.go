package host

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// Stdio is what a process's standard streams are connected to; nil is /dev/null. With a terminal only Console counts.
type Stdio struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Console carries a terminal's both directions. The end of its input hangs the terminal up.
	Console io.ReadWriter
}

// Process is a process in the guest.
type Process struct {
	PID        int32 // in the guest
	c          *Client
	id, execID string
	exited     chan *agent.Exited
	stdout     *output
	stderr     *output
	stdin      net.Conn

	once   sync.Once
	status agent.Exited
	err    error
	ended  chan struct{}
}

const (
	// bufferSize is what one copy moves at a time, in bytes.
	bufferSize = 128 << 10
	// streamTime is what the guest has to open a process's streams, under the slowest emulation.
	streamTime = 60 * time.Second
	// lostTime is what the rest of a lost guest's output has to be written out.
	lostTime = 2 * time.Second
)

// Create makes a container, all but its last step, and connects its streams. It fills m's stream ids in.
func (c *Client) Create(ctx context.Context, m *agent.CreateContainer, stdio Stdio) (*Process, error) {
	return c.begin(ctx, m, &m.Process, stdio, processKey{id: m.ID})
}

// Exec starts a further process in a container. It fills m's stream ids in.
func (c *Client) Exec(ctx context.Context, m *agent.Exec, stdio Stdio) (*Process, error) {
	return c.begin(ctx, m, &m.Process, stdio, processKey{m.ID, m.ExecID})
}

var errDuplicate = &agent.Error{Code: agent.Exists, Text: "container with given ID already exists"}

func (c *Client) begin(ctx context.Context, m agent.Message, p *agent.Process, stdio Stdio, key processKey) (*Process, error) {
	proc := &Process{c: c, id: key.id, execID: key.execID, exited: make(chan *agent.Exited, 1), ended: make(chan struct{})}
	c.mu.Lock()
	if c.procs[key] != nil {
		c.mu.Unlock()
		return nil, errDuplicate
	}
	c.procs[key] = proc // before the request: the process may end before its reply is read
	c.mu.Unlock()
	wanted := [4]bool{stdio.Stdin != nil, stdio.Stdout != nil, stdio.Stderr != nil}
	if p.Terminal {
		wanted = [4]bool{3: stdio.Console != nil}
	}
	var chans [4]chan net.Conn
	for i, id := range []*uint32{&p.Stdin, &p.Stdout, &p.Stderr, &p.Console} {
		*id, chans[i] = c.expect(wanted[i])
		defer c.unexpect(*id, chans[i])
	}
	r, err := c.Do(ctx, m)
	if err == nil {
		proc.PID = r.PID
		if err = proc.connect(ctx, stdio, chans); err != nil {
			_ = c.send(0, &agent.Signal{ID: key.id, ExecID: key.execID, Signal: 9})
		}
	}
	if err != nil {
		c.mu.Lock()
		if c.procs[key] == proc {
			delete(c.procs, key)
		}
		c.mu.Unlock()
		return nil, err
	}
	return proc, nil
}

// connect takes the streams that the guest has opened and begins to copy.
func (p *Process) connect(ctx context.Context, stdio Stdio, chans [4]chan net.Conn) error {
	timeout := time.NewTimer(streamTime)
	defer timeout.Stop()
	var conns [4]net.Conn
	for i, ch := range chans {
		if ch == nil {
			continue
		}
		var err error
		select {
		case conns[i] = <-ch:
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-p.c.done:
			err = p.c.Err()
		case <-timeout.C:
			err = errStream
		}
		for _, conn := range conns[:i] {
			if conn != nil {
				conn.Close()
			}
		}
		return err
	}
	p.stdin = conns[0]
	if conns[0] != nil {
		go copyIn(conns[0], stdio.Stdin)
	}
	p.stdout, p.stderr = copyOut(stdio.Stdout, conns[1]), copyOut(stdio.Stderr, conns[2])
	if conns[3] != nil {
		go copyIn(conns[3], stdio.Console)
		p.stdout = copyOut(stdio.Console, conns[3])
	}
	return nil
}

// copyIn copies to the guest and tells it the end.
func copyIn(dst net.Conn, src io.Reader) {
	// The structs hide ReadFrom and WriteTo, which would choose their own buffer.
	_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, bufferSize))
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
		return
	}
	dst.Close()
}

// output counts what has been written out of a stream.
type output struct {
	mu      sync.Mutex
	n       uint64
	wanted  uint64
	waiting bool
	arrived chan struct{}
	once    sync.Once
}

func copyOut(dst io.Writer, src net.Conn) *output {
	if src == nil {
		return nil
	}
	o := &output{arrived: make(chan struct{})}
	go func() {
		defer o.finish()
		defer src.Close()
		buf := make([]byte, bufferSize)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return // src.Close tells the guest's writer: EPIPE
				}
				o.add(n)
			}
			if err != nil {
				return
			}
		}
	}()
	return o
}

func (o *output) finish() { o.once.Do(func() { close(o.arrived) }) }

func (o *output) add(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n += uint64(n)
	if o.waiting && o.n >= o.wanted {
		o.finish()
	}
}

// await is closed when the stream has brought n bytes or has ended.
func (o *output) await(n uint64) <-chan struct{} {
	if o == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted, o.waiting = n, true
	if o.n >= n {
		o.finish()
	}
	return o.arrived
}

// Wait waits until the process has ended and its output has been written out; what children of it that still run
// write later is copied on, and not waited for. Its error means that the guest was lost or ctx ended.
func (p *Process) Wait(ctx context.Context) (agent.Exited, error) {
	p.once.Do(func() { go p.collect() })
	select {
	case <-p.ended:
		return p.status, p.err
	case <-ctx.Done():
		return agent.Exited{}, context.Cause(ctx)
	}
}

func (p *Process) collect() {
	defer close(p.ended)
	select {
	case e := <-p.exited:
		p.take(e)
	case <-p.c.done:
		select {
		case e := <-p.exited: // it was the guest's last message
			p.take(e)
		default:
			p.err = p.c.Err()
		}
	}
}

func (p *Process) take(e *agent.Exited) {
	p.status = *e
	for _, arrived := range []<-chan struct{}{p.stdout.await(e.StdoutBytes), p.stderr.await(e.StderrBytes)} {
		select {
		case <-arrived:
		case <-p.c.done:
			select { // what had come already
			case <-arrived:
			case <-time.After(lostTime):
			}
		}
	}
	if p.stdin != nil {
		p.stdin.Close()
	}
}

// Signal signals the process.
func (p *Process) Signal(ctx context.Context, signal uint8) error {
	_, err := p.c.Do(ctx, &agent.Signal{ID: p.id, ExecID: p.execID, Signal: signal})
	return err
}

// Resize sets the size of the process's terminal.
func (p *Process) Resize(ctx context.Context, rows, cols uint16) error {
	_, err := p.c.Do(ctx, &agent.Resize{ID: p.id, ExecID: p.execID, Rows: rows, Cols: cols})
	return err
}

// CloseStdin ends the process's input at once. The end of Stdio.Stdin does so in order, after what was read from it.
func (p *Process) CloseStdin(ctx context.Context) error {
	_, err := p.c.Do(ctx, &agent.CloseStdin{ID: p.id, ExecID: p.execID})
	return err
}

// IsNotRunning tells whether err says that the process had ended already, or was never there.
func IsNotRunning(err error) bool {
	code := agent.CodeOf(err)
	return code == agent.NotRunning || code == agent.NotFound || errors.Is(err, ErrClosed)
}
