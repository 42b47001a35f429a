package vsock

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio/virtiotest"
)

const (
	guestCID  = 3
	rxBufSize = 4096
)

// guest is a driver of the device in the test's goroutine: it sends and receives packets one by one.
type guest struct {
	*virtiotest.Driver
	t    testing.TB
	in   []packet
	size int // of the receive buffers
}

type packet struct {
	header
	payload []byte
}

func newDevice(t testing.TB) *Device {
	t.Helper()
	d, err := New(Config{GuestCID: guestCID})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newGuest sets the device up and offers some receive buffers, and event buffers.
func newGuest(t testing.TB, d *Device, buffers int) *guest {
	t.Helper()
	g := &guest{t: t, size: rxBufSize, Driver: virtiotest.New(t, d, virtiotest.Options{})}
	g.post(buffers)
	g.Queue(eventQueue).Add(nil, 8)
	g.Queue(eventQueue).Kick()
	return g
}

func (g *guest) post(n int) {
	for range n {
		g.Queue(rxQueue).Add(nil, g.size)
	}
	g.Queue(rxQueue).Kick()
}

// send sends a packet from the guest's port 5000 to the host's port 1000, unless h says other ones.
func (g *guest) send(h header, payload ...byte) {
	g.t.Helper()
	if h.srcCID == 0 {
		h.srcCID, h.dstCID = guestCID, HostCID
	}
	if h.srcPort == 0 {
		h.srcPort, h.dstPort = 5000, 1000
	}
	if h.kind == 0 {
		h.kind = typeStream
	}
	if h.length == 0 {
		h.length = uint32(len(payload))
	}
	if h.bufAlloc == 0 {
		h.bufAlloc = 64 << 10
	}
	var raw [headerSize]byte
	h.put(&raw)
	chain := [][]byte{raw[:]}
	if len(payload) > 0 {
		chain = append(chain, payload)
	}
	g.Queue(txQueue).Do(chain)
}

// poll takes what has arrived and offers as many buffers again.
func (g *guest) poll() {
	for _, r := range g.Queue(rxQueue).Reap() {
		if r.Written >= headerSize {
			p := packet{header: parseHeader((*[headerSize]byte)(r.Bytes())), payload: r.Bytes()[headerSize:]}
			if int(p.length) != len(p.payload) {
				g.t.Errorf("packet %+v with %d bytes of payload", p.header, len(p.payload))
			}
			g.in = append(g.in, p)
		}
		g.post(1)
	}
}

// recv waits for the next packet and checks what all packets have in common.
func (g *guest) recv() packet {
	g.t.Helper()
	for g.poll(); len(g.in) == 0; g.poll() {
		g.WaitInterrupt()
	}
	p := g.in[0]
	g.in = g.in[1:]
	if p.srcCID != HostCID || p.dstCID != guestCID {
		g.t.Errorf("packet %+v has wrong CIDs", p.header)
	}
	return p
}

// expect waits for a packet with this op.
func (g *guest) expect(op uint16) packet {
	g.t.Helper()
	p := g.recv()
	if p.op != op {
		g.t.Fatalf("got op %d (%+v, %q), want %d", p.op, p.header, p.payload, op)
	}
	return p
}

// quiet checks that nothing arrives for a while.
func (g *guest) quiet() {
	g.t.Helper()
	time.Sleep(20 * time.Millisecond)
	if g.poll(); len(g.in) > 0 {
		g.t.Fatalf("unexpected packet %+v", g.in[0])
	}
}

func listen(t testing.TB, d *Device) net.Listener {
	t.Helper()
	l, err := d.Listen(1000)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect makes a stream from the guest's port 5000 to the host's 1000.
func (g *guest) connect(l net.Listener) *Conn {
	g.t.Helper()
	g.send(header{op: opRequest})
	g.expect(opResponse)
	c, err := l.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	return c.(*Conn)
}

// relay is a guest that splices streams: what the host dials to port p comes back to the host's listener on port p, and
// every packet of the one is passed on to the other with its credit, so that two host ends face each other through the
// rings.
type relay struct {
	*guest
	pairs   map[ports]ports // of one side of a splice to the other
	pending []packet
	stop    chan struct{}
	done    chan struct{}
	next    uint32
	sending int // chains in the transmit queue
}

func newRelay(t testing.TB, d *Device, buffers int) *relay {
	t.Helper()
	r := &relay{
		guest: newGuest(t, d, buffers), pairs: map[ports]ports{}, stop: make(chan struct{}), done: make(chan struct{}),
		next: 100,
	}
	go r.run()
	t.Cleanup(func() {
		close(r.stop)
		<-r.done
	})
	return r
}

func (r *relay) run() {
	defer close(r.done)
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		r.sending -= len(r.Queue(txQueue).Reap())
		r.poll()
		if len(r.in) == 0 && len(r.pending) == 0 {
			time.Sleep(10 * time.Microsecond)
			continue
		}
		for _, p := range r.in {
			r.splice(p)
		}
		r.in = nil
		r.flush()
	}
}

// splice passes a packet on.
func (r *relay) splice(p packet) {
	from := ports{host: p.srcPort, guest: p.dstPort}
	to, ok := r.pairs[from]
	switch {
	case ok:
	case p.op == opRequest:
		to = ports{host: p.dstPort, guest: r.next}
		r.next++
		r.pairs[from], r.pairs[to] = to, from
	default:
		return
	}
	if p.op == opRst {
		delete(r.pairs, from)
		delete(r.pairs, to)
	}
	p.srcCID, p.dstCID, p.srcPort, p.dstPort = guestCID, HostCID, to.guest, to.host
	r.pending = append(r.pending, p)
}

// flush sends what the transmit queue has room for: a chain takes one descriptor, as an indirect table.
func (r *relay) flush() {
	q := r.Queue(txQueue)
	for len(r.pending) > 0 && r.sending < int(q.Size) {
		p := r.pending[0]
		r.pending = r.pending[1:]
		var raw [headerSize]byte
		p.put(&raw)
		chain := [][]byte{raw[:]}
		if len(p.payload) > 0 {
			chain = append(chain, p.payload)
		}
		q.Add(chain)
		r.sending++
	}
	q.Kick()
}

func u32(p []byte) uint32 { return binary.LittleEndian.Uint32(p) }
