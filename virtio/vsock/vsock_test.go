package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

func TestConfig(t *testing.T) {
	for _, cid := range []uint32{0, 1, 2, ^uint32(0)} {
		if _, err := New(Config{GuestCID: cid}); err == nil {
			t.Errorf("CID %d was accepted", cid)
		}
	}
	g := newGuest(t, newDevice(t), 0)
	if got := g.ReadConfig(0, 8); !bytes.Equal(got, []byte{guestCID, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("guest_cid % x", got)
	}
}

func TestGuestConnects(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	l := listen(t, d)
	g.send(header{op: opRequest, bufAlloc: 1 << 16})
	r := g.expect(opResponse)
	if r.srcPort != 1000 || r.dstPort != 5000 || r.kind != typeStream || r.bufAlloc != bufAlloc || r.fwdCnt != 0 {
		t.Errorf("response %+v", r.header)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.LocalAddr().String() + " " + c.RemoteAddr().String(); got != "2:1000 3:5000" {
		t.Errorf("addresses %s", got)
	}
	g.send(header{op: opRW}, []byte("hello")...)
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("Read: %q, %v", buf[:n], err)
	}
	if n, err := c.Write([]byte("world")); n != 5 || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	if p := g.expect(opRW); string(p.payload) != "world" || p.fwdCnt != 5 {
		t.Errorf("got %+v %q", p.header, p.payload)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if p := g.expect(opShutdown); p.flags != shutdownBoth {
		t.Errorf("shutdown flags %d", p.flags)
	}
	g.send(header{op: opRst})
	if n := len(d.all()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	g.quiet()
}

// TestRefused sends packets to which the only answer is a reset, or none.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		h       header
		payload int
		open    bool // on an established connection
		answer  bool
	}{
		{name: "nobody listens", h: header{op: opRequest, srcPort: 1, dstPort: 999}, answer: true},
		{name: "seqpacket", h: header{op: opRequest, kind: 2}, answer: true},
		{name: "data for no connection", h: header{op: opRW}, payload: 5, answer: true},
		{name: "response for no connection", h: header{op: opResponse}, answer: true},
		{name: "reset for no connection", h: header{op: opRst}},
		{name: "shutdown for no connection", h: header{op: opShutdown, flags: 3}, answer: true},
		{name: "wrong source", h: header{op: opRequest, srcCID: 4, dstCID: 2}},
		{name: "wrong destination", h: header{op: opRequest, srcCID: 3, dstCID: 1}},
		{name: "source beyond 32 bits", h: header{op: opRequest, srcCID: 3 | 1<<32, dstCID: 2}},
		{name: "request twice", h: header{op: opRequest}, open: true, answer: true},
		{name: "response", h: header{op: opResponse}, open: true, answer: true},
		{name: "unknown op", h: header{op: 8}, open: true, answer: true},
		{name: "op 0", h: header{op: 0}, open: true, answer: true},
		{name: "more than the chain has", h: header{op: opRW, length: 6}, payload: 5, open: true, answer: true},
		{name: "4 GiB of nothing", h: header{op: opRW, length: ^uint32(0)}, payload: 5, open: true, answer: true},
		{name: "more than the credit", h: header{op: opRW}, payload: bufAlloc + 1, open: true, answer: true},
		{name: "a reset", h: header{op: opRst}, open: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t)
			g := newGuest(t, d, 4)
			l := listen(t, d)
			var c *Conn
			if tt.open {
				c = g.connect(l)
			}
			g.send(tt.h, make([]byte, tt.payload)...)
			if tt.answer {
				if p := g.expect(opRst); tt.h.kind != 0 && p.kind != tt.h.kind {
					t.Errorf("a reset of type %d", p.kind)
				}
			}
			g.quiet()
			if tt.open {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("Read: %v", err)
				}
				if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("Write: %v", err)
				}
			}
			if n := len(d.all()); n != 0 {
				t.Errorf("%d connections", n)
			}
			if g.Status()&virtio.StatusNeedsReset != 0 {
				t.Error("the device is dead")
			}
		})
	}
}

func TestShortPacket(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 1)
	listen(t, d)
	h := header{srcCID: guestCID, dstCID: HostCID, srcPort: 5000, dstPort: 1000, kind: typeStream, op: opRequest}
	var raw [headerSize]byte
	h.put(&raw)
	for n := 1; n < headerSize; n++ { // a good request but for its end
		g.Queue(txQueue).Do([][]byte{raw[:n]})
	}
	g.Queue(txQueue).Do(nil, 100)
	g.quiet()
	if n := len(d.all()); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestSmallReceiveBuffers(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 0)
	l := listen(t, d)
	g.send(header{op: opRequest})
	// One that does not hold a header comes back empty; one that holds nothing else takes the response, but no data.
	if r := g.Queue(rxQueue).Do(nil, headerSize-1); r.Written != 0 {
		t.Errorf("%d bytes", r.Written)
	}
	if r := g.Queue(rxQueue).Do(nil, headerSize); r.Written != headerSize {
		t.Errorf("%d bytes", r.Written)
	}
	c, _ := l.Accept()
	go func() { _, _ = c.Write([]byte("ab")) }()
	if r := g.Queue(rxQueue).Do(nil, headerSize); r.Written != 0 {
		t.Errorf("%d bytes", r.Written)
	}
	for _, want := range []string{"a", "b"} {
		if r := g.Queue(rxQueue).Do(nil, headerSize-4, 5); string(r.Bytes()[headerSize:]) != want {
			t.Errorf("%q, want %q", r.Bytes()[headerSize:], want)
		}
	}
}

func TestDial(t *testing.T) {
	d := newDevice(t)
	type result struct {
		c   net.Conn
		err error
	}
	dial := func(ctx context.Context) chan result {
		done := make(chan result, 1)
		go func() {
			c, err := d.Dial(ctx, 7)
			done <- result{c, err}
		}()
		return done
	}
	early := dial(context.Background()) // before there is a driver, which resets the device first
	virtiotest.Eventually(t, "the dial", func() bool { return len(d.all()) == 1 })
	g := newGuest(t, d, 4)

	p := g.expect(opRequest)
	if p.dstPort != 7 || p.srcPort < firstEphemeral {
		t.Errorf("request %+v", p.header)
	}
	answer := func(p packet, op uint16) { g.send(header{op: op, srcPort: p.dstPort, dstPort: p.srcPort}) }
	answer(p, opResponse)
	r := <-early
	if r.err != nil {
		t.Fatal(r.err)
	}
	if got := r.c.RemoteAddr().String(); got != "3:7" {
		t.Errorf("remote address %s", got)
	}

	refused := dial(context.Background())
	p2 := g.expect(opRequest)
	if p2.srcPort == p.srcPort {
		t.Error("the port is taken")
	}
	answer(p2, opRst)
	if r := <-refused; !errors.Is(r.err, syscall.ECONNREFUSED) {
		t.Errorf("refused: %v", r.err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	given := dial(ctx)
	g.expect(opRequest)
	cancel()
	if r := <-given; !errors.Is(r.err, context.Canceled) {
		t.Errorf("cancelled: %v", r.err)
	}
	g.expect(opRst)

	odd := dial(context.Background())
	answer(g.expect(opRequest), opRW)
	g.expect(opRst)
	if r := <-odd; !errors.Is(r.err, syscall.ECONNRESET) {
		t.Errorf("data instead of an answer: %v", r.err)
	}
}

// TestCreditOfGuest: no byte goes to the guest that it has no room for.
func TestCreditOfGuest(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	l := listen(t, d)
	g.send(header{op: opRequest, bufAlloc: 10})
	g.expect(opResponse)
	c, _ := l.Accept()
	done := make(chan error)
	go func() {
		_, err := c.Write([]byte("0123456789abcdefghij!"))
		done <- err
	}()
	if p := g.expect(opRW); string(p.payload) != "0123456789" {
		t.Errorf("got %q", p.payload)
	}
	g.expect(opCreditRequest)
	g.quiet()
	g.send(header{op: opCreditUpdate, bufAlloc: 10, fwdCnt: 4})
	if p := g.expect(opRW); string(p.payload) != "abcd" {
		t.Errorf("got %q", p.payload)
	}
	g.expect(opCreditRequest)
	g.send(header{op: opCreditUpdate, bufAlloc: 10, fwdCnt: 1 << 20}) // nonsense is no credit
	g.quiet()
	g.send(header{op: opCreditUpdate, bufAlloc: 10, fwdCnt: 14})
	if p := g.expect(opRW); string(p.payload) != "efghij!" {
		t.Errorf("got %q", p.payload)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestCreditOfHost: the guest hears of what the reader took, when it asks and when it was much.
func TestCreditOfHost(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	c := g.connect(listen(t, d))
	g.send(header{op: opRW}, make([]byte, 100)...)
	if _, err := io.ReadFull(c, make([]byte, 70)); err != nil {
		t.Fatal(err)
	}
	g.quiet()
	g.send(header{op: opCreditRequest})
	if p := g.expect(opCreditUpdate); p.fwdCnt != 70 || p.bufAlloc != bufAlloc {
		t.Errorf("credit %+v", p.header)
	}
	for range 4 {
		g.send(header{op: opRW}, make([]byte, creditStep/4)...)
	}
	if _, err := io.ReadFull(c, make([]byte, creditStep)); err != nil {
		t.Fatal(err)
	}
	if p := g.expect(opCreditUpdate); p.fwdCnt != 70+creditStep {
		t.Errorf("credit %+v", p.header)
	}
	g.quiet()
}

func TestHalfClose(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	l := listen(t, d)
	t.Run("of the host", func(t *testing.T) {
		c := g.connect(l)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if p := g.expect(opShutdown); p.flags != shutdownSend {
			t.Errorf("flags %d", p.flags)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write: %v", err)
		}
		g.send(header{op: opRW}, 'x')
		g.send(header{op: opShutdown, flags: shutdownBoth})
		g.expect(opRst)
		if got, err := io.ReadAll(c); string(got) != "x" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.quiet()
	})
	t.Run("of the guest", func(t *testing.T) {
		c := g.connect(l)
		g.send(header{op: opRW}, 'y')
		g.send(header{op: opShutdown, flags: shutdownSend})
		if got, err := io.ReadAll(c); string(got) != "y" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := c.Write([]byte("z")); err != nil {
			t.Errorf("Write: %v", err)
		}
		g.expect(opRW)
		g.send(header{op: opShutdown, flags: shutdownReceive})
		g.expect(opRst)
		if _, err := c.Write([]byte("z")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write: %v", err)
		}
	})
	t.Run("of the host's reading", func(t *testing.T) {
		c := g.connect(l)
		g.send(header{op: opRW}, 'y')
		if err := c.CloseRead(); err != nil {
			t.Fatal(err)
		}
		if p := g.expect(opShutdown); p.flags != shutdownReceive || p.fwdCnt != 1 {
			t.Errorf("%+v", p.header)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read: %v", err)
		}
		for range 20 { // dropped, whatever it is
			g.send(header{op: opRW}, make([]byte, creditStep/2)...)
		}
		c.Abort()
		for p := g.recv(); p.op != opRst; p = g.recv() {
			if p.op != opCreditUpdate {
				t.Errorf("op %d", p.op)
			}
		}
	})
	t.Run("data after the end", func(t *testing.T) {
		c := g.connect(l)
		g.send(header{op: opShutdown, flags: shutdownSend})
		g.send(header{op: opRW}, 'y')
		g.expect(opRst)
		if got, err := io.ReadAll(c); len(got) != 0 || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// TestSlowReader: a stream that nobody reads fills up; the others go on.
func TestSlowReader(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	l := listen(t, d)
	slow := g.connect(l)
	for range 4 {
		g.send(header{op: opRW}, make([]byte, bufAlloc/4)...)
	}
	other := header{srcPort: 6000, dstPort: 1000}
	other.op = opRequest
	g.send(other)
	g.expect(opResponse)
	c, _ := l.Accept()
	other.op = opRW
	for range 100 {
		g.send(other, []byte("abcd")...)
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("efgh")); err != nil {
			t.Fatal(err)
		}
		g.expect(opRW)
	}
	if n, err := io.ReadFull(slow, make([]byte, bufAlloc)); err != nil {
		t.Errorf("%d bytes: %v", n, err)
	}
}

func TestListener(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	l := listen(t, d)
	if _, err := d.Listen(1000); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen: %v", err)
	}
	g.send(header{op: opRequest})
	g.expect(opResponse)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	g.expect(opRst) // nobody accepted it
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	g.connect(listen(t, d))
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	g.expect(opRst)
	if _, err := d.Dial(context.Background(), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := d.Listen(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen: %v", err)
	}
}

func TestDriverResets(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	l := listen(t, d)
	c := g.connect(l)
	done := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	g.Init()
	if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %v", err)
	}
	g.post(4)
	g.connect(l)
}

// TestResetForgetsReplies: what was due before a reset is not the next driver's.
func TestResetForgetsReplies(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 0)
	for range maxReplies { // after the last one the transmit queue stands still
		g.send(header{op: opRW})
	}
	g.Init()
	g.post(8)
	g.quiet()
	g.connect(listen(t, d))
}

// TestStateRoundTrip: after a restore the guest hears of it before anything else, its old streams are gone, new ones
// work.
func TestStateRoundTrip(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	g.connect(listen(t, d))
	g.StopWorkers()
	state, err := g.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	d, err = New(Config{GuestCID: 77}) // the state knows better
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, d)
	g.Move(d)
	if err := g.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	g.StartWorkers()
	events := g.Queue(eventQueue)
	var got []*virtiotest.Request
	virtiotest.Eventually(t, "the event", func() bool {
		got = append(got, events.Reap()...)
		return len(got) > 0
	})
	if len(got) != 1 || got[0].Written != 4 || u32(got[0].Bytes()) != eventTransportReset {
		t.Errorf("events %+v", got)
	}
	g.send(header{op: opRW}, 'x')
	g.expect(opRst)
	g.connect(l)
	g.quiet()

	for _, bad := range [][]byte{nil, {1}, {2, 3, 0, 0, 0}, {1, 2, 0, 0, 0}, {1, 3, 0, 0, 0, 0}} {
		if err := newDevice(t).UnmarshalState(bad); err == nil {
			t.Errorf("state % x was accepted", bad)
		}
	}
}

// TestCloseTimeout: a guest that does not agree to the end of a stream does not keep it.
func TestCloseTimeout(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	c := g.connect(listen(t, d))
	_ = c.Close()
	g.expect(opShutdown)
	c.giveUp() // what the timer calls
	g.expect(opRst)
	if n := len(d.all()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestDeadlineOfAnIdleStream(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	c := g.connect(listen(t, d))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	g.send(header{op: opRW}, 'x')
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
}

func TestServeUnclaimed(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 4)
	hold := make(chan bool)
	d.ServeUnclaimed(func(port uint32, accept func() (net.Conn, error)) {
		if port != 1000 {
			t.Errorf("port %d", port)
		}
		if !<-hold {
			return
		}
		c, err := accept()
		if err != nil {
			hold <- false
			return
		}
		_, _ = c.Write([]byte("x"))
		hold <- true
	})
	g.send(header{op: opRequest})
	g.quiet() // no answer before the decision
	hold <- true
	g.expect(opResponse)
	g.expect(opRW)
	<-hold
	g.send(header{op: opRst})

	g.send(header{op: opRequest})
	hold <- false
	g.expect(opRst)

	g.send(header{op: opRequest})
	g.send(header{op: opRW}, 'x') // too early
	g.expect(opRst)
	hold <- true
	if <-hold {
		t.Error("accept succeeded after a reset")
	}
	d.ServeUnclaimed(nil)
	g.send(header{op: opRequest})
	g.expect(opRst)
}

// TestUnclaimedFlood: streams that the guest asks for and resets at once leave no more goroutines behind than it may have
// streams, however long those take.
func TestUnclaimedFlood(t *testing.T) {
	const maxConns = 5
	d, err := New(Config{GuestCID: guestCID, MaxConns: maxConns})
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, d, 8)
	hold := make(chan struct{})
	var running, refused atomic.Int32
	d.ServeUnclaimed(func(_ uint32, accept func() (net.Conn, error)) {
		running.Add(1)
		defer running.Add(-1)
		<-hold
		if _, err := accept(); err == nil {
			t.Error("a stream that the guest has reset was accepted")
		}
		refused.Add(1)
	})
	for range 10 * maxConns {
		g.send(header{op: opRequest})
		g.send(header{op: opRst})
	}
	virtiotest.Eventually(t, "the calls", func() bool { return running.Load() == maxConns })
	for range 9 * maxConns {
		g.expect(opRst)
	}
	g.quiet()
	if n := running.Load(); n != maxConns {
		t.Errorf("%d calls at a time", n)
	}
	close(hold)
	virtiotest.Eventually(t, "the end of the calls", func() bool { return refused.Load() == maxConns && running.Load() == 0 })
	if n := len(d.all()); n != 0 {
		t.Errorf("%d connections", n)
	}
	virtiotest.Eventually(t, "a place for the next one", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.serving == 0
	})
}

// TestCreditLies: whatever the guest says of its buffer, the host sends no more than fits what it said last, forgets
// nothing, and goes on when the guest says something sensible.
func TestCreditLies(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	l := listen(t, d)
	g.send(header{op: opRequest, bufAlloc: 10})
	g.expect(opResponse)
	c, _ := l.Accept()
	done := make(chan error)
	go func() {
		_, err := c.Write([]byte("0123456789abcdefghij"))
		done <- err
	}()
	g.expect(opRW)
	g.expect(opCreditRequest)
	for _, lie := range []header{
		{bufAlloc: 10, fwdCnt: 11},           // more than was sent
		{bufAlloc: 10, fwdCnt: ^uint32(0)},   // less than nothing
		{bufAlloc: 10, fwdCnt: 1 << 31},      // half of all
		{bufAlloc: 9},                        // shrunk below what is under way
		{bufAlloc: 1},                        // and more
		{bufAlloc: 1 << 31, fwdCnt: 1 << 30}, // a large one, full of what was never sent
	} {
		lie.op = opCreditUpdate
		g.send(lie)
		g.quiet()
	}
	var none header // a buffer of nothing: send would put in a default
	none.srcCID, none.dstCID, none.srcPort, none.dstPort = guestCID, HostCID, 5000, 1000
	none.kind, none.op = typeStream, opCreditUpdate
	var raw [headerSize]byte
	none.put(&raw)
	g.Queue(txQueue).Do([][]byte{raw[:]})
	g.quiet()
	g.send(header{op: opCreditUpdate, bufAlloc: ^uint32(0), fwdCnt: 10})
	if p := g.expect(opRW); string(p.payload) != "abcdefghij" {
		t.Errorf("got %q", p.payload)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestControlFlood: packets that want an answer, while there are no receive buffers, leave one answer due.
func TestControlFlood(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 1)
	c := g.connect(listen(t, d)) // took the buffer, and offered it again
	go func() { _, _ = c.Write([]byte("x")) }()
	virtiotest.Eventually(t, "the buffer to be used", func() bool { g.in = nil; return len(g.Queue(rxQueue).Reap()) > 0 })
	for range 500 {
		g.send(header{op: opCreditRequest})
		g.send(header{op: opCreditUpdate})
		g.send(header{op: opRW}) // of nothing
	}
	d.mu.Lock()
	ready, replies := len(d.ready), len(d.replies)
	d.mu.Unlock()
	if ready > 1 || replies != 0 {
		t.Errorf("%d turns, %d replies", ready, replies)
	}
	g.post(4)
	g.expect(opCreditUpdate)
	g.quiet()
	if n, err := io.ReadFull(c, make([]byte, 0)); n != 0 || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
}

// TestPortReuse: a stream on the ports of one that has just ended is a new one, whatever its end still has in hand.
func TestPortReuse(t *testing.T) {
	d := newDevice(t)
	g := newGuest(t, d, 8)
	l := listen(t, d)
	old := g.connect(l)
	g.send(header{op: opRW}, []byte("old")...)
	g.send(header{op: opRst})
	again := g.connect(l)
	g.send(header{op: opRW}, []byte("new")...)
	if got, err := io.ReadAll(io.LimitReader(old, 3)); string(got) != "old" || err != nil {
		t.Errorf("the old stream has %q, %v", got, err)
	}
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the old stream ends with %v", err)
	}
	_ = old.Close()
	old.Abort()
	g.quiet() // neither is the new one's
	buf := make([]byte, 3)
	if _, err := io.ReadFull(again, buf); string(buf) != "new" || err != nil {
		t.Errorf("the new stream has %q, %v", buf, err)
	}
	if n := len(d.all()); n != 1 {
		t.Errorf("%d connections", n)
	}
}
