// Package netstack is the other end of a user-mode network: a host of its own on the guest's network, on gVisor's TCP/IP stack, that
// makes an ordinary connection of this process of each that the guest makes, and the other way round for ports that are published. It
// answers as gateway, DHCP server, IPv6 router and name server.
//
// The guest is hostile: what it may have open at a time, and what is buffered of it, is bounded.
package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
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

const (
	// nic is the number of the one interface.
	nic = 1
	// maxConnections bounds the guest's TCP connections, both ways, with those that are not quite over.
	maxConnections = 512
	// maxHandshakes bounds those of them that the guest has begun and the host has not answered.
	maxHandshakes = 128
	// maxFlows bounds its conversations by UDP, the name server's not counted; one is over after flowTime without a datagram.
	maxFlows = 256
	flowTime = time.Minute
	// maxAsking bounds the sockets of the guest that ask the name server.
	maxAsking = 64
	// maxPings bounds its conversations by ICMP.
	maxPings = 32
	pingTime = 10 * time.Second
	// closeTries is how often Close looks whether all connections have ended, once a millisecond.
	closeTries = 1000
	// dialTime is how long the host may take to a connection.
	dialTime = 30 * time.Second
)

// mac is the stack's address on the guest's network, locally administered.
var mac = tcpip.LinkAddress("\x52\x55\x0a\x00\x02\x02")

// linkLocal is its address for neighbours and as a router.
var linkLocal = netip.MustParseAddr("fe80::2")

// Network is the stack.
type Network struct {
	cfg   user.Config
	stack *stack.Stack
	link  *link

	connections, flows, asking slots
	big                        atomic.Int32 // connections with large buffers
	server                     atomic.Int32 // the index of the name server that answered last

	// reach leads connections elsewhere; it is for tests, nil otherwise.
	reach func(netip.AddrPort) netip.AddrPort

	mu     sync.Mutex
	pinged map[pingKey]*ping
	opened []interface{ Close() error } // what is published
}

// slots count what is bounded.
type slots struct{ n atomic.Int32 }

func (s *slots) take(limit int32) bool {
	if s.n.Add(1) > limit {
		s.n.Add(-1)
		return false
	}
	return true
}

func (s *slots) release() { s.n.Add(-1) }

// New makes a network, whose frames send takes, each behind a header of virtio-net. It may be called by several goroutines at a time.
func New(cfg user.Config, send func(buffers [][]byte) error) (*Network, error) {
	n := &Network{cfg: cfg, pinged: map[pingKey]*ping{}, link: &link{mac: mac, send: send}}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := n.setUp(); err != nil {
		n.stack.Close()
		return nil, err
	}
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(n.stack, 0, maxHandshakes, n.forwardTCP).HandlePacket)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(n.stack, n.forwardUDP).HandlePacket)
	n.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, n.forwardEcho)
	n.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, n.forwardEcho)
	return n, nil
}

// setUp gives the stack its interface, which takes what is sent to any address and speaks for any.
func (n *Network) setUp() error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(time.Second), tcpip.TCPLingerTimeoutOption(10*time.Second)
	for _, option := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &wait, &linger,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: smallBuffer, Max: bigBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: smallBuffer, Max: bigBuffer},
	} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("%T: %s", option, err)
		}
	}
	if err := n.stack.CreateNIC(nic, n.link); err != nil {
		return errors.New(err.String())
	}
	for _, a := range []netip.Prefix{
		netip.PrefixFrom(user.Gateway, user.Guest.Bits()), netip.PrefixFrom(user.DNS, user.Guest.Bits()),
		netip.PrefixFrom(user.Gateway6, user.Guest6.Bits()), netip.PrefixFrom(user.DNS6, user.Guest6.Bits()), netip.PrefixFrom(linkLocal, 64),
	} {
		protocol := header.IPv4ProtocolNumber
		if a.Addr().Is6() {
			protocol = header.IPv6ProtocolNumber
		}
		own := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a.Addr()), PrefixLen: a.Bits()}}
		if err := n.stack.AddProtocolAddress(nic, own, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address %v: %s", a, err)
		}
	}
	n.stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet(user.Guest), NIC: nic}, {Destination: subnet(user.Guest6), NIC: nic},
		{Destination: header.IPv6LinkLocalPrefix.Subnet(), NIC: nic},
	})
	if err := n.stack.SetPromiscuousMode(nic, true); err != nil {
		return errors.New(err.String())
	}
	if err := n.stack.SetSpoofing(nic, true); err != nil {
		return errors.New(err.String())
	}
	return nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func netipOf(a tcpip.Address) netip.Addr {
	out, _ := netip.AddrFromSlice(a.AsSlice())
	return out
}

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}

// Deliver takes a message of the guest's side: a frame behind its header, or what the driver can take.
func (n *Network) Deliver(message []byte) {
	if len(message) == user.OffloadsSize {
		n.link.offloads.Store(binary.LittleEndian.Uint64(message))
		return
	}
	if len(message) < headerSize+header.EthernetMinimumSize {
		return
	}
	frame := message[headerSize:]
	if !admit(frame) || n.serveDHCP(frame) || n.advertise(frame) {
		return
	}
	n.link.deliver(frame)
}

// Close ends what the network has open, on either side.
func (n *Network) Close() {
	n.mu.Lock()
	for _, c := range n.opened {
		_ = c.Close()
	}
	for _, p := range n.pinged {
		_ = p.socket.Close()
	}
	n.mu.Unlock()
	// Connections that are being made come to be known while others end. Destroy would wait for them, and not end them.
	for range closeTries {
		for _, e := range n.stack.RegisteredEndpoints() {
			e.Abort()
		}
		if n.connections.n.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	n.stack.Close()
}

// own says whether an address is the stack's.
func own(a netip.Addr) bool {
	return a == user.Gateway || a == user.DNS || a == user.Gateway6 || a == user.DNS6 || a == linkLocal
}

// nameServer says whether the guest means the name server.
func nameServer(a netip.AddrPort) bool {
	return a.Port() == 53 && (a.Addr() == user.DNS || a.Addr() == user.DNS6)
}

// allowed says whether the guest may speak with a host: not with what only this host's own programs may reach, which its loopback is.
func allowed(a netip.Addr) bool {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		a.Is4() && a.As4()[0] == 0, // this network: the kernel takes some of it for loopback
		a.Is6() && a.IsLinkLocalUnicast(),
		a.Is6() && netip.MustParsePrefix("::/96").Contains(a),
		user.Guest.Contains(a), user.Guest6.Contains(a):
		return false
	}
	return true
}

// target is where a connection to an address goes.
func (n *Network) target(a netip.AddrPort) netip.AddrPort {
	if n.reach != nil {
		return n.reach(a)
	}
	return a
}

// admit says whether a frame is the guest's to send: from its own network, and to the stack or to all.
func admit(frame []byte) bool {
	eth := header.Ethernet(frame)
	if to := eth.DestinationAddress(); to != mac && to[0]&1 == 0 {
		return false
	}
	if from := eth.SourceAddress(); from[0]&1 != 0 || from == mac {
		return false
	}
	packet := frame[header.EthernetMinimumSize:]
	switch eth.Type() {
	case header.ARPProtocolNumber:
		return true
	case header.IPv4ProtocolNumber:
		if len(packet) < header.IPv4MinimumSize {
			return false
		}
		from := netip.AddrFrom4([4]byte(packet[12:16]))
		return from.IsUnspecified() || user.Guest.Contains(from) && !own(from)
	case header.IPv6ProtocolNumber:
		if len(packet) < header.IPv6MinimumSize {
			return false
		}
		from := netip.AddrFrom16([16]byte(packet[8:24]))
		return from.IsUnspecified() || (user.Guest6.Contains(from) || from.IsLinkLocalUnicast()) && !own(from)
	}
	return false
}

// Listen opens the ports that are published.
func (n *Network) Listen() error {
	for _, ports := range n.cfg.Publish {
		for p := range ports.Each() {
			if err := n.publish(p); err != nil {
				return fmt.Errorf("publish=%v: %w", p, inner(err))
			}
		}
	}
	return nil
}

// inner takes the words off an error of package net that the caller has said already.
func inner(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}
