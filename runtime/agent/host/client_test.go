package host

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// guest is a guest's side, as good or as hostile as a test needs it.
type guest struct {
	t       *testing.T
	path    string
	control net.Conn
	secret  [agent.SecretSize]byte
}

func pair(t *testing.T) (*Client, *guest) {
	t.Helper()
	g := &guest{t: t, path: filepath.Join(t.TempDir(), "s"), secret: [agent.SecretSize]byte{1, 2, 3}}
	l, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		g.control = g.dial(agent.StreamHeader{Control: true})
		_ = agent.Write(g.control, 0, &agent.Hello{KernelRelease: "6", Secret: g.secret})
	}()
	c, err := Accept(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	// The guest's end stays until then, too: one that nobody refers to is closed by the garbage collector.
	t.Cleanup(func() { c.Close(); g.control.Close() })
	return c, g
}

func (g *guest) dial(h agent.StreamHeader) net.Conn {
	c, err := net.Dial("unix", g.path)
	if err != nil {
		g.t.Error(err)
		return nil
	}
	if _, err := h.WriteTo(c); err != nil {
		g.t.Error(err)
	}
	return c
}

func (g *guest) closed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

func TestStreams(t *testing.T) {
	c, g := pair(t)
	if c.Hello.KernelRelease != "6" || c.Hello.Secret != g.secret {
		t.Errorf("hello is %+v", c.Hello)
	}
	id, other := c.NewStream(), c.NewStream()
	if id == 0 || id == other {
		t.Fatalf("stream ids %d and %d", id, other)
	}
	for name, h := range map[string]agent.StreamHeader{
		"a second control stream": {Control: true}, "another secret": {ID: id}, "an id never given": {Secret: g.secret, ID: 99},
	} {
		if !g.closed(g.dial(h)) {
			t.Errorf("%s: not closed", name)
		}
	}
	s := g.dial(agent.StreamHeader{Secret: g.secret, ID: id})
	conn, err := c.Stream(id)
	if err != nil {
		t.Fatal(err)
	}
	if !g.closed(g.dial(agent.StreamHeader{Secret: g.secret, ID: id})) {
		t.Error("an id dialled twice: not closed")
	}
	_, _ = io.WriteString(s, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	late := g.dial(agent.StreamHeader{Secret: g.secret, ID: other})
	for range 100 { // it may not have been sorted yet: both orders must close it
		time.Sleep(time.Millisecond)
	}
	c.DropStream(other)
	if !g.closed(late) {
		t.Error("a stream that nobody took: not closed")
	}
}

func TestSilentStreamsAreBounded(t *testing.T) {
	_, g := pair(t)
	var open []net.Conn
	for range maxUnsorted + 1 {
		c, err := net.Dial("unix", g.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	if !g.closed(open[maxUnsorted]) {
		t.Errorf("stream %d that says nothing is kept", maxUnsorted+1)
	}
}

// TestServe dials one id many times, and once more than is possible.
func TestServe(t *testing.T) {
	c, g := pair(t)
	served := make(chan net.Conn)
	id := c.Serve(func(conn net.Conn) {
		served <- conn
		_, _ = io.Copy(conn, conn)
	})
	if !g.closed(g.dial(agent.StreamHeader{ID: id})) {
		t.Error("another secret: not closed")
	}
	var last net.Conn
	for range maxServed {
		last = g.dial(agent.StreamHeader{Secret: g.secret, ID: id})
		defer last.Close()
		<-served
	}
	if !g.closed(g.dial(agent.StreamHeader{Secret: g.secret, ID: id})) {
		t.Error("one stream more than can be relayed: not closed")
	}
	_, _ = io.WriteString(last, "x")
	if _, err := io.ReadFull(last, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	last.Close()
	for range 1000 { // the slot comes free when the server's function has returned
		next := g.dial(agent.StreamHeader{Secret: g.secret, ID: id})
		defer next.Close()
		select {
		case <-served:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("no further stream after one has ended")
}

func TestRequests(t *testing.T) {
	c, g := pair(t)
	go func() { // answers the second request first
		first, _, _ := agent.Read(g.control, agent.Host)
		second, _, _ := agent.Read(g.control, agent.Host)
		_ = agent.Write(g.control, 77, &agent.Reply{Text: "never asked for"})
		_ = agent.Write(g.control, second, &agent.Reply{Code: agent.NotFound, Text: "container does not exist"})
		_ = agent.Write(g.control, first, &agent.Reply{})
	}()
	begun := make(chan error)
	go func() { begun <- c.Sync() }()
	time.Sleep(10 * time.Millisecond)
	second := c.Start("x")
	if first := <-begun; (first == nil) == (second == nil) {
		t.Errorf("got %v and %v, want one error", first, second)
	}
	if err := c.Create(&agent.CreateContainer{Hostname: strings.Repeat("x", agent.MaxMessage)}); !errors.Is(err, agent.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// TestSilence has a guest that does not answer, and one that does not even read.
func TestSilence(t *testing.T) {
	c, g := pair(t)
	c.patience = 50 * time.Millisecond
	ids := make(chan uint32, 10)
	go func() {
		for {
			id, _, err := agent.Read(g.control, agent.Host)
			if err != nil {
				return
			}
			ids <- id
		}
	}()
	for name, ask := range map[string]func() error{
		"update":   func() error { return c.Update(&agent.Update{ID: "c"}) },
		"signal":   func() error { return c.Signal(&agent.Signal{ID: "c"}) },
		"resize":   func() error { return c.Resize(&agent.Resize{ID: "c"}) },
		"set time": func() error { return c.SetTime(1) },
		"ps":       func() error { _, err := c.Processes("c"); return err },
		"stats":    func() error { _, err := c.Stats("c"); return err },
	} {
		if err := ask(); !errors.Is(err, ErrSilent) {
			t.Errorf("%s: %v", name, err)
		}
		_ = agent.Write(g.control, <-ids, &agent.Reply{}) // nobody waits for it any more
	}
	started := make(chan error, 1)
	go func() { started <- c.Start("c") }()
	start := <-ids
	time.Sleep(4 * c.patience)
	_ = agent.Write(g.control, start, &agent.Reply{})
	if err := <-started; err != nil {
		t.Errorf("a start that takes long: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.replies) != 0 {
		t.Errorf("%d replies are waited for", len(c.replies))
	}
}

func TestDeafness(t *testing.T) {
	c, _ := pair(t)
	c.patience = 50 * time.Millisecond
	big := strings.Repeat("x", agent.MaxMessage/2)
	// The first to find the guest's buffer full goes on writing; the others wait for their turn.
	for range 20 {
		if err := c.Signal(&agent.Signal{ID: big}); !errors.Is(err, ErrSilent) {
			t.Fatal(err)
		}
	}
	if err := c.Signal(&agent.Signal{ID: "c"}); !errors.Is(err, ErrSilent) {
		t.Error(err)
	}
	go func() { time.Sleep(4 * c.patience); c.Close() }()
	if err := c.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("a request that may take long, of a client that is closed: %v", err)
	}
}

func TestExited(t *testing.T) {
	c, g := pair(t)
	before := c.Exited("c", "before")
	for _, id := range []string{"before", "after"} {
		_ = agent.Write(g.control, 0, &agent.Exited{ID: "c", ExecID: id, Status: 7})
	}
	if e := <-before; e.Status != 7 {
		t.Errorf("got %+v", e)
	}
	never := c.Exited("c", "never")
	g.control.Close()
	<-c.Done()
	if e, ok := <-never; ok {
		t.Errorf("a process of a lost guest ended: %+v", e)
	}
	if e, ok := <-c.Exited("c", "after"); !ok || e.Status != 7 {
		t.Errorf("got %+v, %v: an end that came before the loss is lost", e, ok)
	}
	if err := c.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("a request to a lost guest: %v", err)
	}
	if _, err := c.Stream(c.NewStream()); !errors.Is(err, ErrClosed) {
		t.Errorf("a stream of a lost guest: %v", err)
	}
}

func TestMemoryLow(t *testing.T) {
	c, g := pair(t)
	go func() {
		for range 100 { // more than anybody looks at: nothing waits for that
			_ = agent.Write(g.control, 0, &agent.MemoryLow{})
		}
		id, _, _ := agent.Read(g.control, agent.Host)
		_ = agent.Write(g.control, id, &agent.Reply{})
	}()
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	<-c.MemoryLow()
	select {
	case <-c.MemoryLow():
		t.Error("a flood of requests is kept")
	default:
	}
}

func TestFloodOfExits(t *testing.T) {
	c, g := pair(t)
	go func() {
		for i := range 4 * maxPending {
			_ = agent.Write(g.control, 0, &agent.Exited{ID: "c", ExecID: strings.Repeat("x", i)})
		}
		id, _, _ := agent.Read(g.control, agent.Host)
		_ = agent.Write(g.control, id, &agent.Reply{})
	}()
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.exits) > maxPending {
		t.Errorf("%d ends are kept", len(c.exits))
	}
}

func TestBrokenGuest(t *testing.T) {
	for name, b := range map[string]string{"noise": "no frame at all, noise", "hello again": "hello"} {
		c, g := pair(t)
		if b == "hello" {
			_ = agent.Write(g.control, 0, &agent.Hello{})
		} else {
			_, _ = io.WriteString(g.control, b)
		}
		select {
		case <-c.Done():
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the client goes on", name)
		}
	}
}

func TestAcceptEnds(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Accept(ctx, l); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
