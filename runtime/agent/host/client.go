// Package host is the monitor's side of the conversation with govmm-init. The guest is hostile: whatever arrives is
// bounded, and a guest that breaks the protocol loses its control stream, which ends the client.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

var (
	// ErrClosed is the end of the control stream: the guest is gone.
	ErrClosed = errors.New("the guest's init is gone")
	errStream = errors.New("the guest did not open a stream of the process")
)

// Client talks to one guest. Its methods may be called at the same time.
type Client struct {
	hello   agent.Hello
	log     *slog.Logger
	l       net.Listener
	control net.Conn
	slots   chan struct{}
	done    chan struct{}

	sendMu sync.Mutex

	mu       sync.Mutex
	err      error
	next     uint32 // request id
	stream   uint32 // stream id
	requests map[uint32]chan *agent.Reply
	streams  map[uint32]chan net.Conn
	procs    map[processKey]*Process
	refused  int
}

type processKey struct{ id, execID string }

// Accept waits for the guest's init to open its control stream, then serves l until Close. No process of a user may run
// in the guest before it returns. When ctx ends first, l is closed. log may be nil.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger) (*Client, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		log: log, l: l, slots: make(chan struct{}, maxHandshakes), done: make(chan struct{}),
		requests: map[uint32]chan *agent.Reply{}, streams: map[uint32]chan net.Conn{}, procs: map[processKey]*Process{},
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	conn, err := l.Accept()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("wait for the guest's init: %w", err)
	}
	closeConn := context.AfterFunc(ctx, func() { conn.Close() })
	defer closeConn()
	if err := c.greet(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet the guest's init: %w", err)
	}
	c.control = conn
	go c.receive()
	go c.accept()
	return c, nil
}

func (c *Client) greet(conn net.Conn) error {
	h, err := agent.ReadStreamHeader(conn)
	if err != nil {
		return err
	}
	if !h.Control {
		return agent.ErrMalformed
	}
	_, m, err := agent.Read(conn, agent.Guest)
	if err != nil {
		return err
	}
	hello, ok := m.(*agent.Hello)
	if !ok {
		return agent.ErrMalformed
	}
	c.hello = *hello
	return nil
}

// Hello is how the guest introduced itself. What it says of itself is not to be trusted.
func (c *Client) Hello() agent.Hello { return c.hello }

// Done is closed when the control stream has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why the control stream ended.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the control stream and stops accepting.
func (c *Client) Close() error {
	c.l.Close()
	return c.control.Close()
}

// receive reads replies and events until the control stream ends.
func (c *Client) receive() {
	err := c.receiveAll()
	if errors.Is(err, io.EOF) {
		err = ErrClosed
	}
	c.control.Close()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

func (c *Client) receiveAll() error {
	for {
		id, m, err := agent.Read(c.control, agent.Guest)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *agent.Reply:
			c.mu.Lock()
			ch := c.requests[id]
			delete(c.requests, id)
			c.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		case *agent.Exited:
			key := processKey{m.ID, m.ExecID}
			c.mu.Lock()
			p := c.procs[key]
			delete(c.procs, key)
			c.mu.Unlock()
			if p != nil {
				p.exited <- m
			}
		default:
			return agent.ErrMalformed
		}
	}
}

// Do carries out a request and waits for its reply; the methods below are the usual ways to it. A refusal is an
// *agent.Error. When ctx ends first, the request may still be carried out.
func (c *Client) Do(ctx context.Context, m agent.Message) (*agent.Reply, error) {
	ch := make(chan *agent.Reply, 1)
	c.mu.Lock()
	c.next++
	id := c.next
	c.requests[id] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.requests, id)
		c.mu.Unlock()
	}()
	if err := c.send(id, m); err != nil {
		if errors.Is(err, agent.ErrTooLarge) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case r := <-ch:
		if r.Code != agent.OK {
			return nil, &agent.Error{Code: r.Code, Text: r.Text}
		}
		return r, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.done:
		return nil, c.Err()
	}
}

func (c *Client) send(id uint32, m agent.Message) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	return agent.Write(c.control, id, m)
}

// Configure sets the guest's clock, entropy and host name.
func (c *Client) Configure(ctx context.Context, m *agent.Configure) error {
	_, err := c.Do(ctx, m)
	return err
}

// Start lets a created container run.
func (c *Client) Start(ctx context.Context, id string) error {
	_, err := c.Do(ctx, &agent.StartContainer{ID: id})
	return err
}

// Delete forgets a container that has ended.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.Do(ctx, &agent.DeleteContainer{ID: id})
	return err
}

// SignalAll signals every process of a container.
func (c *Client) SignalAll(ctx context.Context, id string, signal uint8) error {
	_, err := c.Do(ctx, &agent.Signal{ID: id, Signal: signal, All: true})
	return err
}

// Processes lists a container's processes.
func (c *Client) Processes(ctx context.Context, id string) ([]agent.ProcessInfo, error) {
	r, err := c.Do(ctx, &agent.ListProcesses{ID: id})
	if err != nil {
		return nil, err
	}
	return r.Processes, nil
}

// Update changes a container's limits.
func (c *Client) Update(ctx context.Context, id string, r agent.Resources) error {
	_, err := c.Do(ctx, &agent.Update{ID: id, Resources: r})
	return err
}

// SetTime sets the guest's clock to now, when it is off by more than 2 ms.
func (c *Client) SetTime(ctx context.Context, now time.Time) error {
	_, err := c.Do(ctx, &agent.SetTime{RealtimeNS: now.UnixNano()})
	return err
}

// SyncFS writes back the guest's file systems.
func (c *Client) SyncFS(ctx context.Context) error {
	_, err := c.Do(ctx, new(agent.SyncFS))
	return err
}

// Shutdown ends every process of the guest and writes back. When it returns, the VM may be closed; the guest resets the
// machine by itself too.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.Do(ctx, new(agent.Shutdown))
	return err
}
