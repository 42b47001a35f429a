// Package host is the monitor's side of the agent's protocol: it accepts the guest's streams, sends requests and hands
// out what comes back. The guest is hostile: every message is bounded, and a stream without the secret is closed.
package host

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// ErrClosed reports that the guest, or the stream to it, is gone.
var ErrClosed = errors.New("the guest is gone")

// ErrSilent reports that the guest has not answered within answerTime. It may carry the request out later.
var ErrSilent = fmt.Errorf("the guest did not answer within %v: it is busy or broken: govmm-run kill ID KILL ends it in any case", answerTime)

// answerTime is how long the guest may take for what is not the container's own work, such as a list of its processes or new limits:
// milliseconds mostly, and this where everything is emulated and busy.
const answerTime = 30 * time.Second

// headerTime is how long a stream may take to say what it is.
const headerTime = 10 * time.Second

const (
	// maxPending bounds the exits that nobody waits for.
	maxPending = 256
	// maxUnsorted bounds the streams that have not said yet what they are: any process of the guest can dial.
	maxUnsorted = 64
	// maxServed bounds the streams of Serve. The guest keeps to less, but may take the end of one for its end here too.
	maxServed = agent.MaxRelayed + maxUnsorted
)

// Client speaks with one guest's agent.
type Client struct {
	// Hello is the guest's first message.
	Hello agent.Hello

	control  net.Conn
	listener net.Listener

	sending  chan struct{} // has room for the one who sends
	patience time.Duration // answerTime

	mu      sync.Mutex
	lastID  uint32 // of requests
	lastNum uint32 // of streams
	replies map[uint32]chan *agent.Reply
	streams map[uint32]chan net.Conn
	served  map[uint32]func(net.Conn) // by Serve
	relayed chan struct{}             // a slot for each stream that is being served
	exits   map[processKey]*exit
	low     chan struct{}
	err     error
	done    chan struct{}
}

type processKey struct{ id, exec string }

// exit is a process's end, to come or to be fetched.
type exit struct {
	c       chan agent.Exited // has room for one
	fetched bool              // by Exited
}

// Accept takes the agent's control stream, the first one that the guest opens, and starts to serve the others. ctx
// bounds the wait.
func Accept(ctx context.Context, l net.Listener) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	conn, err := l.Accept()
	if !stop() && err != nil {
		return nil, fmt.Errorf("PID 1 did not call within its time: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	c := &Client{
		control: conn, listener: l, sending: make(chan struct{}, 1), patience: answerTime,
		replies: map[uint32]chan *agent.Reply{}, streams: map[uint32]chan net.Conn{},
		served: map[uint32]func(net.Conn){}, relayed: make(chan struct{}, maxServed),
		exits: map[processKey]*exit{}, low: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := c.hello(); err != nil {
		conn.Close()
		return nil, err
	}
	go c.receive()
	go c.acceptStreams()
	return c, nil
}

func (c *Client) hello() error {
	_ = c.control.SetReadDeadline(time.Now().Add(headerTime))
	defer func() { _ = c.control.SetReadDeadline(time.Time{}) }()
	h, err := agent.ReadStreamHeader(c.control)
	if err != nil {
		return err
	}
	if !h.Control {
		return errors.New("agent: the first stream is not the control stream")
	}
	_, m, err := agent.Read(c.control, agent.Guest)
	if err != nil {
		return err
	}
	hello, ok := m.(*agent.Hello)
	if !ok {
		return errors.New("agent: the first message is not Hello")
	}
	c.Hello = *hello
	return nil
}

// receive hands out replies and exits until the control stream ends.
func (c *Client) receive() {
	for {
		id, m, err := agent.Read(c.control, agent.Guest)
		if err != nil {
			c.fail(err)
			return
		}
		switch m := m.(type) {
		case *agent.Reply:
			c.mu.Lock()
			ch := c.replies[id]
			delete(c.replies, id)
			c.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		case *agent.Exited:
			c.exited(m)
		case *agent.MemoryLow:
			select {
			case c.low <- struct{}{}:
			default: // nobody has looked at the last one yet
			}
		default:
			c.fail(agent.ErrMalformed)
			return
		}
	}
}

// fail ends every wait.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrClosed, err)
	close(c.done)
	_ = c.control.Close()
	for _, e := range c.exits {
		close(e.c) // what is in it stays
	}
}

// MemoryLow receives when the guest asks for more memory.
func (c *Client) MemoryLow() <-chan struct{} { return c.low }

// Done is closed when the guest is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the client.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	_ = c.listener.Close()
	return c.control.Close()
}

// exited hands out a process's end. It may come before Exited asks.
func (c *Client) exited(m *agent.Exited) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := processKey{m.ID, m.ExecID}
	e := c.exits[key]
	switch {
	case c.err != nil || e == nil && len(c.exits) >= maxPending:
		return
	case e == nil:
		e = &exit{c: make(chan agent.Exited, 1)}
		c.exits[key] = e
	case e.fetched:
		delete(c.exits, key)
	}
	select {
	case e.c <- *m:
	default: // told twice
	}
}

// Exited returns a channel that receives a process's end, once; it is closed without one when the guest is gone. It is
// to be called once a process.
func (c *Client) Exited(id, exec string) <-chan agent.Exited {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := processKey{id, exec}
	e := c.exits[key]
	switch {
	case e != nil:
		delete(c.exits, key) // it has come
	case c.err != nil:
		e = &exit{c: make(chan agent.Exited)}
		close(e.c)
	default:
		e = &exit{c: make(chan agent.Exited, 1), fetched: true}
		c.exits[key] = e
	}
	return e.c
}

// Forget drops what is kept of a process whose end nobody will fetch.
func (c *Client) Forget(id, exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.exits, processKey{id, exec})
}

// acceptStreams takes the streams that the guest dials for processes. Whoever does not know the secret is cut off.
func (c *Client) acceptStreams() {
	slots := make(chan struct{}, maxUnsorted)
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				c.sortStream(conn)
			}()
		default:
			conn.Close()
		}
	}
}

func (c *Client) sortStream(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(headerTime))
	h, err := agent.ReadStreamHeader(conn)
	_ = conn.SetReadDeadline(time.Time{})
	if err != nil || h.Control || subtle.ConstantTimeCompare(h.Secret[:], c.Hello.Secret[:]) != 1 {
		conn.Close()
		return
	}
	c.mu.Lock() // against DropStream, which closes what nobody took
	defer c.mu.Unlock()
	if serve := c.served[h.ID]; serve != nil {
		c.serve(conn, serve)
		return
	}
	select {
	case c.streams[h.ID] <- conn: // a nil channel, of an id that was never given, blocks
	default:
		conn.Close()
	}
}

// Serve reserves a stream id that the guest may dial any number of times, and calls serve with each stream, on a
// goroutine of its own. The streams of all ids are bounded together: one too many is closed.
func (c *Client) Serve(serve func(net.Conn)) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastNum++
	c.served[c.lastNum] = serve
	return c.lastNum
}

func (c *Client) serve(conn net.Conn, serve func(net.Conn)) {
	select {
	case c.relayed <- struct{}{}:
		go func() {
			defer func() { <-c.relayed }()
			defer conn.Close()
			serve(conn)
		}()
	default:
		conn.Close()
	}
}

// NewStream reserves a stream id to be put into a Process.
func (c *Client) NewStream() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastNum++
	c.streams[c.lastNum] = make(chan net.Conn, 1)
	return c.lastNum
}

// Stream waits until the guest has dialled the stream with a reserved id, once.
func (c *Client) Stream(id uint32) (net.Conn, error) {
	c.mu.Lock()
	ch := c.streams[id]
	c.mu.Unlock()
	if ch == nil {
		return nil, fmt.Errorf("agent: stream %d was not reserved", id)
	}
	defer c.DropStream(id)
	select {
	case conn := <-ch:
		return conn, nil
	case <-c.done:
		return nil, ErrClosed
	}
}

// DropStream gives a reserved id back; a stream that still arrives for it is closed.
func (c *Client) DropStream(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case conn := <-c.streams[id]:
		conn.Close()
	default:
	}
	delete(c.streams, id)
}

// call sends a request and waits for its reply, which may take as long as the container's own work does.
func (c *Client) call(m agent.Message) (*agent.Reply, error) { return c.callUntil(m, nil) }

// ask is call for what is soon done: with a guest that does not answer, or does not even read, it ends with ErrSilent.
func (c *Client) ask(m agent.Message) (*agent.Reply, error) {
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	return c.callUntil(m, timer.C)
}

func (c *Client) callUntil(m agent.Message, late <-chan time.Time) (*agent.Reply, error) {
	id, reply, err := c.expect()
	if err != nil {
		return nil, err
	}
	if err := c.send(id, m, late); err != nil {
		c.dismiss(id)
		return nil, err
	}
	select {
	case r := <-reply:
		if r.Code != agent.OK {
			return r, &agent.Error{Code: r.Code, Text: r.Text}
		}
		return r, nil
	case <-late:
		c.dismiss(id)
		return nil, ErrSilent
	case <-c.done:
		return nil, c.err
	}
}

// expect makes a request id, and the channel that receives its reply.
func (c *Client) expect() (id uint32, reply <-chan *agent.Reply, err error) {
	ch := make(chan *agent.Reply, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.lastID++
	c.replies[c.lastID] = ch
	return c.lastID, ch, nil
}

// dismiss has a reply that still comes be dropped.
func (c *Client) dismiss(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.replies, id)
}

// send writes a request, and waits for a guest that reads no longer than until late.
func (c *Client) send(id uint32, m agent.Message, late <-chan time.Time) error {
	select {
	case c.sending <- struct{}{}:
	case <-late:
		return ErrSilent
	case <-c.done:
		return c.err
	}
	if late == nil {
		return c.write(id, m)
	}
	// Half of a message cannot be taken back: whoever began to write goes on alone, and keeps others from it.
	written := make(chan error, 1)
	go func() { written <- c.write(id, m) }()
	select {
	case err := <-written:
		return err
	case <-late:
		return ErrSilent
	}
}

// write writes for whoever has the turn to send, and gives it back.
func (c *Client) write(id uint32, m agent.Message) error {
	defer func() { <-c.sending }()
	err := agent.Write(c.control, id, m)
	if err != nil && !errors.Is(err, agent.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}
