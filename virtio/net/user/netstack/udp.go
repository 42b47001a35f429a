package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/govmm/govmm/virtio/net/user"
)

// maxDatagram is the largest that IP has.
const maxDatagram = 65535

// forwardUDP begins a conversation with the first datagram of it. What is refused is answered with "port unreachable".
func (n *Network) forwardUDP(r *udp.ForwarderRequest) bool {
	id := r.ID()
	to := netip.AddrPortFrom(netipOf(id.LocalAddress), id.LocalPort)
	from := netipOf(id.RemoteAddress)
	switch {
	case to.Addr().IsMulticast() || to.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || from.IsUnspecified() || id.RemotePort == 0:
		return true // there is nobody else on the guest's network
	case nameServer(to):
		return n.begin(r, &n.asking, maxAsking, n.answerQuestions)
	case !allowed(to.Addr()):
		return false
	}
	return n.begin(r, &n.flows, maxFlows, func(guest *gonet.UDPConn) {
		host, err := net.Dial("udp", n.target(to).String())
		if err != nil {
			return
		}
		exchange(guest, host)
	})
}

// begin makes the guest's end of a conversation and has serve carry it, if there may be one more.
func (n *Network) begin(r *udp.ForwarderRequest, s *slots, limit int32, serve func(*gonet.UDPConn)) bool {
	if !s.take(limit) {
		return false
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		s.release()
		return true
	}
	go func() {
		defer s.release()
		guest := gonet.NewUDPConn(&wq, ep)
		defer guest.Close()
		serve(guest)
	}()
	return true
}

// exchange carries datagrams between two ends until neither has sent any for flowTime, and closes both.
func exchange(a, b net.Conn) {
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	var both sync.WaitGroup
	for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			relay(d[0], d[1], &last)
			_ = a.Close()
			_ = b.Close()
		})
	}
	both.Wait()
}

func relay(to io.Writer, from net.Conn, last *atomic.Int64) {
	for buf := make([]byte, maxDatagram); ; {
		_ = from.SetReadDeadline(time.Now().Add(flowTime))
		k, err := from.Read(buf)
		switch timeout := net.Error(nil); {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout():
			if time.Since(time.Unix(0, last.Load())) < flowTime {
				continue // the other direction is in use
			}
			return
		default:
			return
		}
		last.Store(time.Now().UnixNano())
		_, _ = to.Write(buf[:k]) // what is not taken is lost, as datagrams are
	}
}

// serveUDP carries the conversations of a published port: each client outside has a socket of the gateway's.
func (n *Network) serveUDP(c *net.UDPConn, port uint16) {
	clients := map[netip.AddrPort]*client{}
	var mu sync.Mutex
	for buf := make([]byte, maxDatagram); ; {
		k, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a client that does not listen any more
		}
		mu.Lock()
		known := clients[from]
		mu.Unlock()
		if known == nil {
			if known = n.newClient(c, from, port); known == nil {
				continue
			}
			mu.Lock()
			clients[from] = known
			mu.Unlock()
			go func() {
				defer n.flows.release()
				known.answer()
				mu.Lock()
				defer mu.Unlock()
				delete(clients, from)
			}()
		}
		known.last.Store(time.Now().UnixNano())
		_, _ = known.guest.Write(buf[:k])
	}
}

// client is one that has sent something to a published port.
type client struct {
	host  *net.UDPConn // the port's
	from  netip.AddrPort
	guest *gonet.UDPConn
	last  atomic.Int64
}

func (n *Network) newClient(host *net.UDPConn, from netip.AddrPort, port uint16) *client {
	if !n.flows.take(maxFlows) {
		return nil
	}
	guest, err := gonet.DialUDP(n.stack, &tcpip.FullAddress{NIC: nic, Addr: address(user.Gateway)},
		&tcpip.FullAddress{NIC: nic, Addr: address(user.Guest.Addr()), Port: port}, header.IPv4ProtocolNumber)
	if err != nil {
		n.flows.release()
		return nil
	}
	return &client{host: host, from: from, guest: guest}
}

// answer carries the guest's answers until the conversation is over.
func (c *client) answer() {
	defer c.guest.Close()
	relay(clientEnd{c}, c.guest, &c.last)
}

// clientEnd writes to the client.
type clientEnd struct{ *client }

func (e clientEnd) Write(p []byte) (int, error) { return e.host.WriteToUDPAddrPort(p, e.from) }

// publish opens a single port.
func (n *Network) publish(p user.Publish) error {
	if p.Protocol == "udp" {
		a, err := net.ResolveUDPAddr("udp", p.Listen())
		if err != nil {
			return err
		}
		c, err := net.ListenUDP("udp", a)
		if err != nil {
			return err
		}
		n.opened = append(n.opened, c)
		go n.serveUDP(c, p.GuestPort)
		return nil
	}
	l, err := net.Listen("tcp", p.Listen())
	if err != nil {
		return err
	}
	n.opened = append(n.opened, l)
	go n.accept(l, p.GuestPort)
	return nil
}
