package guest_test

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/agent/host"
)

// stdio is what a test connects a process to; nil is /dev/null.
type stdio struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	console        io.ReadWriter
}

// process is a process as a monitor keeps it.
type process struct {
	c          *host.Client
	id, execID string
	out        sync.WaitGroup
	exited     <-chan agent.Exited
}

func (f *fixture) create(m *agent.CreateContainer, s stdio) (*process, error) {
	p := &process{c: f.Client, id: m.ID}
	connect := p.streams(&m.Process, s)
	if err := f.Create(m); err != nil {
		return nil, err
	}
	connect()
	return p, nil
}

func (f *fixture) exec(m *agent.Exec, s stdio) (*process, error) {
	p := &process{c: f.Client, id: m.ID, execID: m.ExecID}
	connect := p.streams(&m.Process, s)
	if err := f.Exec(m); err != nil {
		return nil, err
	}
	connect()
	return p, nil
}

// streams reserves the streams and returns what copies them.
func (p *process) streams(a *agent.Process, s stdio) func() {
	var in []func()
	if a.Terminal {
		a.Console = p.c.NewStream()
		in = append(in, func() {
			c := p.take(a.Console)
			go copyIn(c, s.console)
			p.out.Go(func() { _, _ = io.Copy(s.console, c) })
		})
	} else {
		if s.stdin != nil {
			a.Stdin = p.c.NewStream()
			in = append(in, func() { c := p.take(a.Stdin); go copyIn(c, s.stdin) })
		}
		for _, o := range []struct {
			w  io.Writer
			id *uint32
		}{{s.stdout, &a.Stdout}, {s.stderr, &a.Stderr}} {
			if o.w != nil {
				*o.id = p.c.NewStream()
				in = append(in, func() { c := p.take(*o.id); p.out.Go(func() { _, _ = io.Copy(o.w, c); c.Close() }) })
			}
		}
	}
	return func() {
		for _, f := range in {
			f()
		}
		p.exited = p.c.Exited(p.id, p.execID)
	}
}

func (p *process) take(id uint32) net.Conn {
	c, err := p.c.Stream(id)
	if err != nil {
		panic(err)
	}
	return c
}

func copyIn(c net.Conn, r io.Reader) {
	_, _ = io.Copy(c, r)
	_ = c.(*net.UnixConn).CloseWrite()
}

// Wait waits for the process's end, and for its streams' too unless a child holds them.
func (p *process) Wait(ctx context.Context) (agent.Exited, error) {
	select {
	case e, ok := <-p.exited:
		if !ok {
			return e, host.ErrClosed
		}
		return e, nil
	case <-ctx.Done():
		return agent.Exited{}, ctx.Err()
	}
}

func (p *process) signal(n uint8) error {
	return p.c.Signal(&agent.Signal{ID: p.id, ExecID: p.execID, Signal: n})
}
