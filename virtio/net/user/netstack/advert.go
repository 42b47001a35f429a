package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/govmm/govmm/virtio/net/user"
)

// Of a router advertisement and its options (RFC 4861 §4.2, §4.6, RFC 8106 §5.1).
const (
	routerSeconds   = 1800
	optionLinkLayer = 1
	optionPrefix    = 3
	optionLinkMTU   = 5
	optionServers   = 25
	prefixFlags     = 0xc0 // on the link, and good for addresses of the host's own making
	forever         = 0xffffffff
)

// advertise answers a frame that asks for a router, and says whether it is one.
func (n *Network) advertise(frame []byte) bool {
	if header.Ethernet(frame).Type() != header.IPv6ProtocolNumber {
		return false
	}
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
		return false
	}
	message := header.ICMPv6(ip.Payload())
	if len(message) < header.ICMPv6HeaderSize || message.Type() != header.ICMPv6RouterSolicit {
		return false
	}
	if ip.HopLimit() == header.NDPHopLimit && message.Code() == 0 {
		n.link.sendFrame(advertisement())
	}
	return true
}

// advertisement is a frame to all that says: this is the router, and this is how addresses are made here.
func advertisement() []byte {
	be := binary.BigEndian
	m := []byte{byte(header.ICMPv6RouterAdvert), 0, 0, 0, 64, 0} // the checksum later; the hop limit; no DHCPv6
	m = be.AppendUint16(m, routerSeconds)
	m = append(m, make([]byte, 8)...) // no opinion on reachable time and retransmissions

	m = append(append(m, optionLinkLayer, 1), mac...)
	m = append(m, optionLinkMTU, 1, 0, 0)
	m = be.AppendUint32(m, user.MTU)

	m = append(m, optionPrefix, 4, byte(user.Guest6.Bits()), prefixFlags)
	m = be.AppendUint32(be.AppendUint32(m, forever), forever)
	m = append(m, 0, 0, 0, 0)
	m = append(m, user.Guest6.Masked().Addr().AsSlice()...)

	m = append(m, optionServers, 3, 0, 0)
	m = be.AppendUint32(m, forever)
	m = append(m, user.DNS6.AsSlice()...)

	from, to := address(linkLocal), header.IPv6AllNodesMulticastAddress
	be.PutUint16(m[2:], ^checksum.Checksum(m, header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, from, to, uint16(len(m)))))

	frame := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: mac, DstAddr: tcpip.LinkAddress("\x33\x33\x00\x00\x00\x01"), Type: header.IPv6ProtocolNumber,
	})
	header.IPv6(frame[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(m)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit, SrcAddr: from, DstAddr: to,
	})
	return append(frame, m...)
}
