package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/govmm/govmm/virtio/net/user"
)

// What is buffered of a connection, in each direction: much for the first ones, little for all others, some 60 MiB in all.
const (
	bigBuffer      = 1 << 20
	smallBuffer    = 32 << 10
	maxBig         = 16
	copySize       = 16 << 10
	bigCopySize    = 256 << 10
	lastAckTime    = 30 * time.Second // for the guest to take what is left of a connection
	lastAckLook    = 100 * time.Millisecond
	guestReplyTime = 10 * time.Second // for the guest to a connection from outside
)

// forwardTCP makes a connection on the host for one of the guest's, and only then answers it: a refusal is one for the guest, too.
func (n *Network) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	to := netip.AddrPortFrom(netipOf(id.LocalAddress), id.LocalPort)
	if !nameServer(to) && !allowed(to.Addr()) || !n.connections.take(maxConnections) {
		r.Complete(true)
		return
	}
	defer n.connections.release()
	host, err := n.dial(to)
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if terr != nil {
		_ = host.Close()
		return
	}
	n.splice(ep, &wq, host)
}

func (n *Network) dial(to netip.AddrPort) (*net.TCPConn, error) {
	targets := []netip.AddrPort{to}
	if nameServer(to) {
		targets = n.nameServers()
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	var d net.Dialer
	var all error
	for _, target := range targets {
		c, err := d.DialContext(ctx, "tcp", n.target(target).String())
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

// accept takes connections to a port that is published, as long as there may be more.
func (n *Network) accept(l net.Listener, port uint16) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(lastAckLook) // no descriptors, for now
			continue
		}
		if !n.connections.take(maxConnections) {
			reset(c.(*net.TCPConn))
			continue
		}
		go func() {
			defer n.connections.release()
			n.connectGuest(c.(*net.TCPConn), port)
		}()
	}
}

// connectGuest connects who has dialled a published port with the guest's server. Whom that refuses is reset.
func (n *Network) connectGuest(host *net.TCPConn, port uint16) {
	var wq waiter.Queue
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, &wq)
	if terr != nil {
		reset(host)
		return
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	terr = ep.Bind(tcpip.FullAddress{NIC: nic, Addr: address(user.Gateway)})
	if terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nic, Addr: address(user.Guest.Addr()), Port: port})
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			terr = ep.LastError()
		case <-time.After(guestReplyTime):
			terr = &tcpip.ErrTimeout{}
		}
	}
	wq.EventUnregister(&entry)
	if terr != nil {
		ep.Abort()
		reset(host)
		return
	}
	n.splice(ep, &wq, host)
}

// reset closes a connection so that its other end sees that something went wrong.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// splice carries what either end says to the other, each direction until its own end, and returns when nothing of the connection is left.
func (n *Network) splice(ep tcpip.Endpoint, wq *waiter.Queue, host *net.TCPConn) {
	size := copySize
	if n.big.Add(1) <= maxBig {
		ep.SocketOptions().SetSendBufferSize(bigBuffer, true)
		ep.SocketOptions().SetReceiveBufferSize(bigBuffer, true)
		size = bigCopySize
	}
	defer n.big.Add(-1)
	guest := gonet.NewTCPConn(wq, ep)
	up := make(chan error, 1)
	go func() { up <- carry(host, guest, size) }()
	down := carry(guest, host, size)
	if err := errors.Join(down, <-up); err != nil {
		ep.Abort()
		reset(host)
		return
	}
	_ = host.Close()
	finish(ep)
}

type halfCloser interface {
	io.ReadWriter
	CloseWrite() error
	SetDeadline(time.Time) error
}

// carry copies one direction, and ends it as it has ended; an error ends both.
func carry(to, from halfCloser, size int) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, size))
	if err != nil {
		_ = to.SetDeadline(time.Unix(1, 0))
		_ = from.SetDeadline(time.Unix(1, 0))
		return err
	}
	_ = to.CloseWrite() // there may be nobody any more who would see it
	return nil
}

// finish closes the guest's end, and waits until it has taken the rest: what is kept for that counts.
func finish(ep tcpip.Endpoint) {
	ep.Close()
	for range lastAckTime / lastAckLook {
		switch tcp.EndpointState(ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
			return
		}
		time.Sleep(lastAckLook)
	}
	ep.Abort()
}
