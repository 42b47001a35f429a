// Package vsock is the virtio socket device (virtio 1.2 §5.10), in process: a guest's AF_VSOCK streams are net.Conn and
// net.Listener on the host, with no kernel socket between them. It serves streams only.
//
// Three goroutines meet in a connection: the one that serves the guest's transmit queue fills the receive buffer and
// changes the state; the one that serves the receive queue copies from the slices of Writes straight into guest memory;
// the user's calls. What the guest can make the host hold is bounded: connections, each one's receive buffer, listeners'
// backlogs, and resets that wait for receive buffers. When the latter are too many, the transmit queue stands still
// until the guest takes some.
//
// Locks: Conn.mu before Device.mu; never the other way round.
package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/govmm/govmm/virtio"
)

// FeatureStream says that the device has stream sockets (virtio 1.2 §5.10.3).
const FeatureStream uint64 = 1 << 0

// HostCID is the context id of the host, that is of this package's side.
const HostCID = 2

// The queues (virtio 1.2 §5.10.2), as the guest calls them: rx is towards the guest.
const (
	rxQueue    = 0
	txQueue    = 1
	eventQueue = 2
)

// Linux fills rx and event completely when it starts, so that their sizes cost start-up time.
var queueSizes = [...]uint16{rxQueue: 128, txQueue: 128, eventQueue: 8}

const (
	// bufAlloc is each connection's receive buffer, in bytes: a power of two, as it is a ring's size.
	bufAlloc = 256 << 10
	// creditStep is after how many bytes, taken by a reader, the guest hears of its new credit.
	creditStep = bufAlloc / 4
	// maxPayload bounds a packet to the guest, in bytes; Linux drops larger ones.
	maxPayload = 64 << 10
	// maxReplies bounds the resets for packets of no connection that wait for receive buffers.
	maxReplies = 64
	// backlog bounds the connections that wait for a listener's Accept.
	backlog = 128
	// defaultMaxConns bounds the receive buffers' memory to 128 MiB, were all full at once.
	defaultMaxConns = 512
	// closeTimeout is how long a closed connection waits for the guest's agreement: what Linux waits.
	closeTimeout = 8 * time.Second
	// notifyEvery is after how many packets of a batch the guest is told of them.
	notifyEvery = 32
	// firstEphemeral is where the ports of Dial begin: above all that anybody listens on.
	firstEphemeral = 1 << 30
)

// stateVersion is the first byte of a device's state.
const stateVersion = 1

// Config is what a device needs.
type Config struct {
	// GuestCID is the guest's context id, at least 3. It means something only between this device and its guest.
	GuestCID uint32
	// MaxConns bounds the connections at any time, and the calls of ServeUnclaimed's function; 0 means 512. Those beyond
	// are refused.
	MaxConns int
	// Logger gets what the driver does wrong, rate-limited. nil discards.
	Logger *slog.Logger
}

// Device is a virtio socket device. Its methods may be called from any goroutine.
type Device struct {
	cfg       Config
	log       *slog.Logger
	limiter   virtio.Limiter
	transport virtio.Transport

	mu        sync.Mutex
	cid       uint32
	closed    bool
	conns     map[ports]*Conn
	listeners map[uint32]*listener
	unclaimed func(port uint32, accept func() (net.Conn, error))
	serving   int // calls of unclaimed that have not returned
	nextPort  uint32
	ready     []*Conn  // those with something to send, in turn
	replies   []header // resets for packets that belong to no connection
	held      bool     // the transmit queue stands still because replies is full
	awake     bool     // the receive queue's goroutine will look at ready and replies, sooner or later
	event     bool     // TRANSPORT_RESET is due
	hasEvents bool     // the driver has an event queue
}

// ports identifies a connection: all are between the same two CIDs.
type ports struct{ host, guest uint32 }

// New returns a device without listeners.
func New(cfg Config) (*Device, error) {
	if cfg.GuestCID <= HostCID || cfg.GuestCID == ^uint32(0) {
		return nil, fmt.Errorf("vsock: guest CID %d is a reserved one: use 3 or more", cfg.GuestCID)
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{
		cfg: cfg, log: cfg.Logger, cid: cfg.GuestCID, conns: map[ports]*Conn{}, listeners: map[uint32]*listener{},
		nextPort: firstEphemeral,
	}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDVsock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return FeatureStream }

// Queues implements virtio.Device: rx, tx and event.
func (d *Device) Queues() []uint16 { return queueSizes[:] }

// Config implements virtio.Device: guest_cid (virtio 1.2 §5.10.4).
func (d *Device) Config() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return binary.LittleEndian.AppendUint64(nil, uint64(d.cid))
}

// Attach implements virtio.Attacher.
func (d *Device) Attach(t virtio.Transport) { d.transport = t }

// Activate implements virtio.Activator.
func (d *Device) Activate(_ uint64, queues []*virtio.Queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hasEvents = queues[eventQueue] != nil
}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, i int, q *virtio.Queue) error {
	switch i {
	case rxQueue:
		return d.serveRX(ctx, q)
	case txQueue:
		return d.serveTX(ctx, q)
	default:
		return d.serveEvents(q)
	}
}

// Reset implements virtio.Device. Connections break, but for those that Dial has not asked the guest for yet: a driver
// resets its device before it sets it up. Listeners stay.
func (d *Device) Reset() {
	for _, c := range d.all() {
		c.transportReset()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replies, d.held, d.awake, d.event, d.hasEvents = nil, false, false, false, false
}

func (d *Device) all() []*Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*Conn, 0, len(d.conns))
	for _, c := range d.conns {
		all = append(all, c)
	}
	return all
}

// Close breaks all connections and closes all listeners: Dial and Listen fail from now on. The guest is told as long as
// its queues are served.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	listeners := d.listeners
	d.listeners = map[uint32]*listener{}
	d.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, c := range d.all() {
		c.Abort()
	}
	return nil
}

// MarshalState implements virtio.StateSaver. Connections do not survive a snapshot.
func (d *Device) MarshalState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return binary.LittleEndian.AppendUint32([]byte{stateVersion}, d.cid), nil
}

// UnmarshalState implements virtio.StateSaver. The guest keeps its CID and hears that its connections are gone.
func (d *Device) UnmarshalState(p []byte) error {
	if len(p) != 5 || p[0] != stateVersion {
		return errors.New("vsock: not a state of this version")
	}
	cid := binary.LittleEndian.Uint32(p[1:])
	if cid <= HostCID || cid == ^uint32(0) {
		return fmt.Errorf("vsock: saved guest CID %d", cid)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cid, d.event = cid, true
	return nil
}

// serveEvents delivers TRANSPORT_RESET when it is due. Without one no chain is taken.
func (d *Device) serveEvents(q *virtio.Queue) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.event {
		return nil
	}
	c, err := q.Pop()
	if c == nil {
		return err
	}
	n := c.Write(binary.LittleEndian.AppendUint32(nil, eventTransportReset))
	d.event = false
	d.wakeLocked() // it stood still for the event
	return q.Push(c, uint32(n))
}

// wakeLocked has the receive queue served, unless that is certain already. The caller holds d.mu.
func (d *Device) wakeLocked() {
	if !d.awake && d.transport != nil {
		d.awake = true
		d.transport.Kick(rxQueue)
	}
}

// enqueue gives a connection with something to send its turn. The caller holds c.mu.
func (d *Device) enqueue(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.queued {
		c.queued = true
		d.ready = append(d.ready, c)
	}
	d.wakeLocked()
}

// forget drops a connection from the table and from the queue. The caller holds c.mu.
func (d *Device) forget(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[c.ports] == c {
		delete(d.conns, c.ports)
	}
	if c.queued {
		c.queued = false
		d.ready = slices.DeleteFunc(d.ready, func(other *Conn) bool { return other == c })
	}
}

// complain logs what the driver did wrong, now and then.
func (d *Device) complain(msg string, h *header) {
	if ok, dropped := d.limiter.Allow(); ok {
		d.log.Warn("vsock: "+msg, "guestPort", h.srcPort, "hostPort", h.dstPort, "op", h.op, "len", h.length,
			"suppressed", dropped)
	}
}

// Dial connects to a port of the guest. Before the guest has a driver it waits, for as long as ctx allows. A port on
// which nobody listens is ECONNREFUSED.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.newOutgoing(port)
	if err == nil {
		if err = c.waitEstablished(ctx); err == nil {
			return c, nil
		}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: &Addr{d.guestCID(), port}, Err: err}
}

func (d *Device) guestCID() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cid
}

// newOutgoing makes a connection on a port of its own and has a REQUEST sent.
func (d *Device) newOutgoing(port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	if len(d.conns) >= d.cfg.MaxConns {
		return nil, fmt.Errorf("%d connections are the limit: %w", d.cfg.MaxConns, syscall.EMFILE)
	}
	p := ports{guest: port}
	for {
		p.host = d.nextPort
		d.nextPort = max(d.nextPort+1, firstEphemeral)
		if d.conns[p] == nil && d.listeners[p.host] == nil && p.host != ^uint32(0) {
			break
		}
	}
	c := newConn(d, p, d.cid)
	c.state, c.due = connecting, dueRequest
	d.conns[p] = c
	c.queued = true
	d.ready = append(d.ready, c)
	d.wakeLocked()
	return c, nil
}
