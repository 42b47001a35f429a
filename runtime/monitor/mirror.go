package monitor

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/network"
)

const (
	// maxMirrored bounds the connections from the namespace to servers in the guest. Further ones wait to be accepted.
	maxMirrored = 128
	// acceptPause is how long no connection is accepted after one could not be.
	acceptPause = 100 * time.Millisecond
	// maxTalks bounds the talks by datagrams. That in which nothing was said for the longest time ends first.
	maxTalks = 64
	// maxHeld bounds the talks and those that are being ended: a guest that does not answer holds them up.
	maxHeld = 2 * maxTalks
	// talkTime is how long a talk lasts in which nothing is said.
	talkTime = 30 * time.Second
	// maxUnsent is how many datagrams wait for the guest to take a talk on. Further ones are lost, as datagrams are.
	maxUnsent = 8
	// maxUDP is the longest that a datagram of UDP is, in bytes.
	maxUDP = 64 << 10
)

// Mirror implements network.Relay. A namespace need not have IPv6, nor its kernel tell by which datagrams came.
func (r *relays) Mirror() ([]network.Mirror, error) {
	slots := make(chan struct{}, maxMirrored)
	var ports []network.Mirror
	for _, f := range []struct{ version, address string }{{"4", "127.0.0.1:0"}, {"6", "[::1]:0"}} {
		ip6 := f.version == "6"
		l, err := net.Listen("tcp"+f.version, f.address)
		switch {
		case err != nil && ip6:
			continue
		case err != nil:
			return nil, err
		}
		go r.acceptMirrored(l, slots)
		ports = append(ports, network.Mirror{Protocol: unix.IPPROTO_TCP, IPv6: ip6, Port: l.Addr().(*net.TCPAddr).AddrPort().Port()})
		m, err := r.listenTalks("udp"+f.version, f.address)
		if err != nil {
			r.log.Warn("the guest's servers are not to be reached by UDP on the namespace's loopback", "error", err)
			continue
		}
		go m.receive()
		ports = append(ports, network.Mirror{Protocol: unix.IPPROTO_UDP, IPv6: ip6, Port: m.socket.LocalAddr().(*net.UDPAddr).AddrPort().Port()})
	}
	return ports, nil
}

func (r *relays) acceptMirrored(l net.Listener, slots chan struct{}) {
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		if err != nil { // such as too many open files: the next one may succeed
			r.log.Debug("loopback", "error", err)
			<-slots
			time.Sleep(acceptPause)
			continue
		}
		go func() {
			defer func() { <-slots }()
			r.mirrorConnection(c.(*net.TCPConn))
		}()
	}
}

// mirrorConnection connects who has dialled in the namespace with the guest's server. Whom that refuses is reset.
func (r *relays) mirrorConnection(c *net.TCPConn) {
	defer c.Close()
	to, err := originalDestination(c)
	if err != nil {
		r.log.Debug("loopback", "error", err)
		_ = c.SetLinger(0)
		return
	}
	guest, err := r.guest.Connect(to)
	if err != nil {
		r.log.Debug("loopback", "to", to, "error", err)
		_ = c.SetLinger(0)
		return
	}
	defer guest.Close()
	if guest, ok := guest.(halfCloser); ok {
		splice(guest, c)
	}
}

// originalDestination is where a connection was to go before a rule sent it here.
func originalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	const originalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h)
	var to netip.AddrPort
	cerr := raw.Control(func(fd uintptr) {
		if c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().Is4() {
			// The helper that returns 16 bytes, which is struct sockaddr_in.
			var b *unix.IPv6Mreq
			if b, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, originalDst); err == nil {
				a := b.Multiaddr
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3]))
			}
			return
		}
		// And this one begins with struct sockaddr_in6; the port is in network order.
		var b *unix.IPv6MTUInfo
		if b, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, originalDst); err == nil {
			to = netip.AddrPortFrom(netip.AddrFrom16(b.Addr.Addr), b.Addr.Port<<8|b.Addr.Port>>8)
		}
	})
	return to, errors.Join(err, cerr)
}

// talks are the talks by datagrams of the namespace's clients with servers in the guest.
type talks struct {
	log     *slog.Logger
	socket  *net.UDPConn
	connect func(client netip.AddrPort) (net.Conn, error) // with the server that a client dialled

	mu    sync.Mutex
	talks map[netip.AddrPort]*talk // by the client
	held  int
}

// talk is one client's with one server.
type talk struct {
	unsent chan []byte
	done   chan struct{}
	end    sync.Once
	said   time.Time // last by the client, guarded by talks.mu
}

func (t *talk) close() { t.end.Do(func() { close(t.done) }) }

// listenTalks returns the talks of those who dial the guest by UDP.
func (r *relays) listenTalks(name, address string) (*talks, error) {
	l, err := net.ListenPacket(name, address)
	if err != nil {
		return nil, err
	}
	own := l.LocalAddr().(*net.UDPAddr).AddrPort()
	own = netip.AddrPortFrom(own.Addr().Unmap(), own.Port())
	connect := func(client netip.AddrPort) (net.Conn, error) {
		to, err := network.OriginalTarget(client, own)
		if err != nil {
			return nil, err
		}
		return r.guest.ConnectDatagrams(to)
	}
	return newTalks(r.log, l.(*net.UDPConn), connect), nil
}

func newTalks(log *slog.Logger, socket *net.UDPConn, connect func(netip.AddrPort) (net.Conn, error)) *talks {
	return &talks{log: log, socket: socket, connect: connect, talks: map[netip.AddrPort]*talk{}}
}

// receive gives each datagram to its client's talk, until the socket is closed.
func (m *talks) receive() {
	for buf := make([]byte, maxUDP); ; {
		n, from, err := m.socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.log.Debug("loopback", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		if t := m.of(from); t != nil {
			select {
			case t.unsent <- append([]byte(nil), buf[:n]...):
			default:
			}
		}
	}
}

// of returns a client's talk, which begins if there is none, or nil where too many are held up.
func (m *talks) of(from netip.AddrPort) *talk {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.talks[from]
	if t == nil {
		if m.held >= maxHeld {
			return nil
		}
		if len(m.talks) >= maxTalks {
			m.endOldest()
		}
		m.held++
		t = &talk{unsent: make(chan []byte, maxUnsent), done: make(chan struct{})}
		m.talks[from] = t
		go m.hold(from, t)
	}
	t.said = time.Now()
	return t
}

func (m *talks) endOldest() {
	var oldest netip.AddrPort
	for from, t := range m.talks {
		if o := m.talks[oldest]; o == nil || t.said.Before(o.said) {
			oldest = from
		}
	}
	m.talks[oldest].close()
	delete(m.talks, oldest)
}

// hold is a talk from its first datagram on.
func (m *talks) hold(from netip.AddrPort, t *talk) {
	err := m.carry(from, t)
	if err != nil {
		m.log.Debug("loopback", "from", from, "error", err)
	}
	t.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held--
	if m.talks[from] == t {
		delete(m.talks, from)
	}
}

func (m *talks) carry(from netip.AddrPort, t *talk) error {
	guest, err := m.connect(from)
	if err != nil {
		return err
	}
	go func() { // a guest that takes nothing holds up what is said to it
		<-t.done
		guest.Close()
	}()
	go func() {
		defer t.close()
		for buf := []byte(nil); ; {
			var err error
			if buf, err = agent.ReadDatagram(guest, buf); err != nil {
				return
			}
			_ = guest.SetReadDeadline(time.Now().Add(talkTime))
			_, _ = m.socket.WriteToUDPAddrPort(buf, from)
		}
	}()
	for {
		select {
		case p := <-t.unsent:
			_ = guest.SetReadDeadline(time.Now().Add(talkTime))
			if err := agent.WriteDatagram(guest, p); err != nil {
				return err
			}
		case <-t.done:
			return nil
		}
	}
}
