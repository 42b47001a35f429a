package netstack

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
)

// pingKey is a conversation: who asks, whom, under which number.
type pingKey struct {
	from, to netip.Addr
	ident    uint16
}

// ping is the host's socket for one, which the kernel lets those have that net.ipv4.ping_group_range says.
type ping struct{ socket *os.File }

// forwardEcho passes an echo request on, and says whether it is to be answered by nobody else.
func (n *Network) forwardEcho(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	from, to := netipOf(id.RemoteAddress), netipOf(id.LocalAddress)
	if own(to) {
		return false
	}
	message := stack.PayloadSince(p.TransportHeader())
	defer message.Release()
	b := message.AsSlice()
	if len(b) < header.ICMPv4MinimumSize || !allowed(to) || from.IsUnspecified() {
		return true
	}
	if to.Is4() && header.ICMPv4(b).Type() != header.ICMPv4Echo || to.Is6() && header.ICMPv6(b).Type() != header.ICMPv6EchoRequest {
		return true
	}
	key := pingKey{from, to, binary.BigEndian.Uint16(b[4:])}
	if s := n.ping(key); s != nil {
		_, _ = s.socket.Write(b) // the kernel puts its own number and checksum in
	}
	return true
}

// ping returns a conversation, which may be new. It is nil where there may be no more, or none at all.
func (n *Network) ping(key pingKey) *ping {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.pinged[key]; s != nil {
		_ = s.socket.SetReadDeadline(time.Now().Add(pingTime))
		return s
	}
	if len(n.pinged) >= maxPings {
		return nil
	}
	socket, err := pingSocket(n.target(netip.AddrPortFrom(key.to, 0)).Addr())
	if err != nil {
		return nil
	}
	s := &ping{socket}
	_ = socket.SetReadDeadline(time.Now().Add(pingTime))
	n.pinged[key] = s
	go n.answerPings(key, s)
	return s
}

func pingSocket(to netip.Addr) (*os.File, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	var sa unix.Sockaddr = &unix.SockaddrInet4{}
	if to.Is4() {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		family, protocol, sa = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: to.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "ping"), nil
}

// answerPings passes the answers back until there was no request for a while.
func (n *Network) answerPings(key pingKey, s *ping) {
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.pinged, key)
		_ = s.socket.Close()
	}()
	for buf := make([]byte, maxDatagram); ; {
		k, err := s.socket.Read(buf)
		if err != nil {
			return
		}
		if k >= header.ICMPv4MinimumSize {
			binary.BigEndian.PutUint16(buf[4:], key.ident)
			n.echoReply(key, buf[:k])
		}
	}
}

// echoReply sends the guest an answer, from whom it has asked.
func (n *Network) echoReply(key pingKey, message []byte) {
	network, transport := header.IPv4ProtocolNumber, icmp.ProtocolNumber4
	binary.BigEndian.PutUint16(message[2:], 0) // the checksum
	if key.to.Is6() {
		network, transport = header.IPv6ProtocolNumber, icmp.ProtocolNumber6
		pseudo := header.PseudoHeaderChecksum(transport, address(key.to), address(key.from), uint16(len(message)))
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, pseudo))
	} else {
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, 0))
	}
	route, err := n.stack.FindRoute(nic, address(key.to), address(key.from), network, false)
	if err != nil {
		return
	}
	defer route.Release()
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()), Payload: buffer.MakeWithData(message),
	})
	defer p.DecRef()
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: tcpip.TransportProtocolNumber(transport), TTL: 64}, p)
}
