package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/govmm/govmm/virtio/net/user"
)

const guestMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x0f")

// guest is the other end of a network: a stack like it, as a guest's.
type guest struct {
	*stack.Stack
	network *Network
}

// pair makes a network and a guest, and carries frames between them. Each direction is a queue, as a socket is one.
func pair(t testing.TB, cfg user.Config, offloads uint64) *guest {
	t.Helper()
	up, down := make(chan []byte, 1024), make(chan []byte, 1024)
	queue := func(c chan []byte) func([][]byte) error {
		return func(buffers [][]byte) error {
			select {
			case c <- bytes.Join(buffers, nil):
			default: // lost
			}
			return nil
		}
	}
	n, err := New(cfg, queue(down))
	if err != nil {
		t.Fatal(err)
	}
	n.reach = func(a netip.AddrPort) netip.AddrPort {
		if a.Addr() == far {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
		}
		return a
	}
	g := &guest{network: n, Stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})}
	l := &link{mac: guestMAC, send: queue(up)}
	l.offloads.Store(offloads)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case m := <-up:
				n.Deliver(m)
			case <-done:
				return
			}
		}
	})
	running.Go(func() {
		for {
			select {
			case m := <-down:
				l.deliver(m[headerSize:])
			case <-done:
				return
			}
		}
	})
	n.Deliver(binary.LittleEndian.AppendUint64(nil, offloads))
	g.check(t, g.CreateNIC(nic, l))
	for _, a := range []netip.Prefix{user.Guest, user.Guest6} {
		protocol := header.IPv4ProtocolNumber
		if a.Addr().Is6() {
			protocol = header.IPv6ProtocolNumber
		}
		g.check(t, g.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol: protocol, AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a.Addr()), PrefixLen: a.Bits()},
		}, stack.AddressProperties{}))
	}
	g.SetRouteTable([]tcpip.Route{
		{Destination: subnet(user.Guest), NIC: nic}, {Destination: subnet(user.Guest6), NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: address(user.Gateway), NIC: nic},
		{Destination: header.IPv6EmptySubnet, Gateway: address(user.Gateway6), NIC: nic},
	})
	t.Cleanup(func() {
		n.Close()
		g.Destroy()
		close(done)
		running.Wait()
	})
	return g
}

func (g *guest) check(t testing.TB, err tcpip.Error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func protocolOf(a netip.AddrPort) tcpip.NetworkProtocolNumber {
	if a.Addr().Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(a.Addr()), Port: a.Port()}
}

func (g *guest) dialTCP(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.Stack, full(to), protocolOf(to))
}

func (g *guest) dialUDP(t *testing.T, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	a := full(to)
	c, err := gonet.DialUDP(g.Stack, nil, &a, protocolOf(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// far is an address of nobody's, which pair leads to this host's loopback.
var far = netip.MustParseAddr("192.0.2.1")

// through is where the guest finds a server on this host's loopback.
func through(a net.Addr) netip.AddrPort {
	p, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(far, p.Port())
}

// random is a stream of n bytes.
func random(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), n) }

func sum(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d bytes, %x", n, h.Sum(nil)[:8])
}

// TestTCPOut sends a stream each way over a connection of the guest's, with and without offloads.
func TestTCPOut(t *testing.T) {
	for name, offloads := range map[string]uint64{"plain": 0, "offloads": segments} {
		t.Run(name, func(t *testing.T) {
			g := pair(t, user.Config{}, offloads)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := make(chan string, 1)
			const size = 8 << 20
			go func() {
				c, err := l.Accept()
				if err != nil {
					got <- err.Error()
					return
				}
				defer c.Close()
				got <- sum(t, c) // until the guest ends its half
				_, _ = io.Copy(c, random(size))
			}()
			c, err := g.dialTCP(through(l.Addr()))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.Copy(c, random(size)); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			want := sum(t, random(size))
			if up := <-got; up != want {
				t.Errorf("up: %s, want %s", up, want)
			}
			if down := sum(t, c); down != want {
				t.Errorf("down: %s, want %s", down, want)
			}
		})
	}
}

// TestRefused: what nobody answers is refused, and so is what the guest may not reach, such as a server on the host's loopback.
func TestRefused(t *testing.T) {
	g := pair(t, user.Config{}, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, to := range []string{"127.0.0.1", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.77", "255.255.255.255", "::1", "::ffff:127.0.0.1", "fd00::2", "::7f00:1"} {
		a := netip.AddrPortFrom(netip.MustParseAddr(to), port)
		if allowed(a.Addr()) {
			t.Errorf("%s is allowed", to)
		}
	}
	for _, to := range []netip.Addr{user.Gateway, user.DNS, user.Gateway6, far} {
		if to == far {
			_ = l.Close() // nobody listens there any more
		}
		if _, err := g.dialTCP(netip.AddrPortFrom(to, port)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%v: %v", to, err)
		}
	}
	for _, to := range []string{"169.254.1.1", "192.0.2.1", "2001:db8::1", "fd01::1"} {
		if !allowed(netip.MustParseAddr(to)) {
			t.Errorf("%s is not allowed", to)
		}
	}
}

// echoUDP answers each datagram with itself and a mark.
func echoUDP(c net.PacketConn) {
	for buf := make([]byte, maxDatagram); ; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(append([]byte("echo "), buf[:n]...), from)
	}
}

// exchangeOne sends a datagram until it is answered, and returns the answer.
func exchangeOne(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	buf := make([]byte, maxDatagram)
	for range 20 {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	t.Fatalf("%q was not answered", text)
	return ""
}

// TestUDPOut: small datagrams and those in fragments.
func TestUDPOut(t *testing.T) {
	g := pair(t, user.Config{}, 0)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go echoUDP(server)
	c := g.dialUDP(t, through(server.LocalAddr()))
	for _, text := range []string{"a word", strings.Repeat("long ", 1000)} {
		if got := exchangeOne(t, c, text); got != "echo "+text {
			t.Errorf("%d bytes came back of %d", len(got), len(text))
		}
	}
}

// TestPublish reaches servers of the guest's through ports of the host's.
func TestPublish(t *testing.T) {
	free := func(network string) uint16 {
		if network == "tcp" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			return l.Addr().(*net.TCPAddr).AddrPort().Port()
		}
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	home := netip.MustParseAddr("127.0.0.1")
	cfg := user.Config{Publish: []user.Publish{
		{Protocol: "tcp", Host: home, HostPort: free("tcp"), GuestPort: 80}, {Protocol: "udp", Host: home, HostPort: free("udp"), GuestPort: 53},
		{Protocol: "tcp", Host: home, HostPort: free("tcp"), GuestPort: 81},
	}}
	g := pair(t, cfg, segments)
	if err := g.network.Listen(); err != nil {
		t.Fatal(err)
	}
	l, err := gonet.ListenTCP(g.Stack, full(netip.AddrPortFrom(user.Guest.Addr(), 80)), header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	c, err := net.Dial("tcp", cfg.Publish[0].Listen())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = io.Copy(c, random(1<<20))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if got, want := sum(t, c), sum(t, random(1<<20)); got != want {
		t.Errorf("TCP: %s, want %s", got, want)
	}
	here := full(netip.AddrPortFrom(user.Guest.Addr(), 53))
	server, err := gonet.DialUDP(g.Stack, &here, nil, header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go echoUDP(server)
	for range 2 { // two clients at a time
		u, err := net.Dial("udp", cfg.Publish[1].Listen())
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if got := exchangeOne(t, u, "to the guest"); got != "echo to the guest" {
			t.Errorf("UDP: %q", got)
		}
	}
	refused, err := net.Dial("tcp", cfg.Publish[2].Listen())
	if err == nil {
		_, err = refused.Read(make([]byte, 1))
		_ = refused.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port at which the guest does not listen: %v, want a reset", err)
	}
	second, err := New(user.Config{Publish: cfg.Publish[:1]}, func([][]byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Listen(); err == nil || !strings.HasSuffix(err.Error(), "address already in use") || !strings.Contains(err.Error(), cfg.Publish[0].String()) {
		t.Errorf("a port that is taken: %v", err)
	}
}

// TestNames asks the name server, over UDP and TCP, when the first of the host's does not answer.
func TestNames(t *testing.T) {
	if allowed(netip.MustParseAddr("127.0.0.53")) {
		t.Fatal("the guest could ask the host's by itself")
	}
	g := pair(t, user.Config{}, 0)
	question := []byte{0x12, 0x34, 1, 0, 'q'}
	answer := func(q []byte) []byte { return append(bytes.Clone(q[:2]), "answer"...) }
	dead, alive := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	g.network.cfg.Nameservers = []netip.Addr{dead, alive}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort()
	g.network.reach = func(a netip.AddrPort) netip.AddrPort {
		switch a {
		case netip.AddrPortFrom(alive, 53):
			return port
		case netip.AddrPortFrom(dead, 53):
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.99.1"), port.Port()) // nobody listens there
		}
		t.Errorf("%v was asked", a)
		return a
	}
	defer u.Close()
	go func() {
		for buf := make([]byte, 512); ; {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte{0, 0, 'x'}, from) // another one's
			_, _ = u.WriteTo(answer(buf[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 512)
			n, _ := c.Read(buf)
			_, _ = c.Write(answer(buf[:n]))
			_ = c.Close()
		}
	}()
	for _, server := range []netip.Addr{user.DNS, user.DNS6} {
		at := netip.AddrPortFrom(server, dnsPort)
		if got := exchangeOne(t, g.dialUDP(t, at), string(question)); got != "\x12\x34answer" {
			t.Errorf("%v: %q over UDP", server, got)
		}
		c, err := g.dialTCP(at)
		if err != nil {
			t.Errorf("%v: %v", server, err)
			continue
		}
		_, _ = c.Write(question)
		if got, err := io.ReadAll(c); string(got) != "\x12\x34answer" {
			t.Errorf("%v: %q over TCP, %v", server, got, err)
		}
		_ = c.Close()
	}
	if g.network.server.Load() != 1 {
		t.Error("the server that answered is not asked first")
	}
}
