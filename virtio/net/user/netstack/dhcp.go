package netstack

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/govmm/govmm/virtio/net/user"
)

// The message of BOOTP (RFC 951) that DHCP's are (RFC 2131 §2).
const (
	dhcpServerPort = 67
	dhcpClientPort = 68
	bootRequest    = 1
	bootReply      = 2
	bootHardware   = 1  // htype, Ethernet's, and then hlen, 6
	bootBroadcast  = 10 // the flags' offset
	bootClient     = 12 // ciaddr
	bootYours      = 16 // yiaddr
	bootServer     = 20 // siaddr
	bootMAC        = 28 // chaddr
	bootCookie     = 236
	bootOptions    = 240
	bootMinimum    = 300 // what clients expect of an answer at least
)

// dhcpCookie stands before the options.
var dhcpCookie = [4]byte{99, 130, 83, 99}

// Options (RFC 2132), and types of messages.
const (
	optionMask     = 1
	optionRouter   = 3
	optionDNS      = 6
	optionMTU      = 26
	optionAddress  = 50
	optionLease    = 51
	optionType     = 53
	optionServer   = 54
	optionSearch   = 119 // RFC 3397
	optionEnd      = 255
	dhcpDiscover   = 1
	dhcpOffer      = 2
	dhcpRequest    = 3
	dhcpACK        = 5
	dhcpNAK        = 6
	dhcpInform     = 8
	leaseSeconds   = 86400
	maxSearchBytes = 200
)

// serveDHCP answers a frame of a DHCP client's, and says whether it is one.
func (n *Network) serveDHCP(frame []byte) bool {
	message, ok := dhcpMessage(frame)
	if !ok {
		return false
	}
	if reply := n.dhcpReply(message); reply != nil {
		to := netip.AddrFrom4([4]byte(reply[bootYours:]))
		link := header.Ethernet(frame).SourceAddress()
		if reply[bootBroadcast]&0x80 != 0 || to.IsUnspecified() {
			to, link = netip.AddrFrom4([4]byte{255, 255, 255, 255}), header.EthernetBroadcastAddress
		}
		n.link.sendFrame(datagram(link, to, reply))
	}
	return true
}

// dhcpMessage finds the message of a client in a frame.
func dhcpMessage(frame []byte) ([]byte, bool) {
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil, false
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.Protocol() != uint8(header.UDPProtocolNumber) || ip.More() || ip.FragmentOffset() != 0 {
		return nil, false
	}
	packet := ip.Payload()
	if len(packet) < header.UDPMinimumSize || header.UDP(packet).DestinationPort() != dhcpServerPort {
		return nil, false
	}
	return packet[header.UDPMinimumSize:], true
}

// dhcpReply makes the answer to a message, nil for none: there is one address to be had.
func (n *Network) dhcpReply(m []byte) []byte {
	if len(m) < bootOptions || m[0] != bootRequest || m[1] != bootHardware || m[2] != 6 || [4]byte(m[bootCookie:]) != dhcpCookie {
		return nil
	}
	options := dhcpOptions(m[bootOptions:])
	kind, ok := options[optionType]
	if !ok || len(kind) != 1 {
		return nil
	}
	if server, ok := options[optionServer]; ok && string(server) != string(user.Gateway.AsSlice()) {
		return nil // meant for another
	}
	reply := make([]byte, bootOptions, bootMinimum)
	copy(reply, m[:bootClient]) // the number, and the flags
	reply[0] = bootReply
	copy(reply[bootMAC:], m[bootMAC:bootMAC+16])
	copy(reply[bootCookie:], dhcpCookie[:])
	guest := user.Guest.Addr().AsSlice()
	switch kind[0] {
	case dhcpDiscover:
		reply = appendOption(reply, optionType, dhcpOffer)
	case dhcpRequest:
		wanted, ok := options[optionAddress]
		if !ok {
			wanted = m[bootClient : bootClient+4] // a lease to be renewed
		}
		if string(wanted) != string(guest) {
			reply = appendOption(appendOption(reply, optionType, dhcpNAK), optionServer, user.Gateway.AsSlice()...)
			return padded(reply)
		}
		reply = appendOption(reply, optionType, dhcpACK)
	case dhcpInform:
		copy(reply[bootClient:], m[bootClient:bootClient+4])
		return padded(n.describe(appendOption(reply, optionType, dhcpACK)))
	default:
		return nil
	}
	copy(reply[bootYours:], guest)
	copy(reply[bootServer:], user.Gateway.AsSlice())
	reply = appendOption(reply, optionLease, binary.BigEndian.AppendUint32(nil, leaseSeconds)...)
	return padded(n.describe(reply))
}

// describe adds what there is to know of the network.
func (n *Network) describe(reply []byte) []byte {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-user.Guest.Bits()))
	reply = appendOption(reply, optionServer, user.Gateway.AsSlice()...)
	reply = appendOption(reply, optionMask, mask...)
	reply = appendOption(reply, optionRouter, user.Gateway.AsSlice()...)
	reply = appendOption(reply, optionDNS, user.DNS.AsSlice()...)
	reply = appendOption(reply, optionMTU, binary.BigEndian.AppendUint16(nil, user.MTU)...)
	var search []byte
	for _, domain := range n.cfg.Search {
		if encoded := labels(domain); len(search)+len(encoded) <= maxSearchBytes {
			search = append(search, encoded...)
		}
	}
	if len(search) > 0 {
		reply = appendOption(reply, optionSearch, search...)
	}
	return reply
}

// labels encodes a domain as DNS does (RFC 1035 §3.1); one that has no such form is left out.
func labels(domain string) []byte {
	var out []byte
	for _, label := range strings.Split(strings.TrimSuffix(domain, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil
		}
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}

func appendOption(b []byte, code byte, value ...byte) []byte {
	return append(append(b, code, byte(len(value))), value...)
}

func padded(b []byte) []byte {
	b = append(b, optionEnd)
	return append(b, make([]byte, max(0, bootMinimum-len(b)))...)
}

// dhcpOptions reads options up to the end, or to what is none.
func dhcpOptions(b []byte) map[byte][]byte {
	out := map[byte][]byte{}
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == 0 { // padding
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			break
		}
		out[b[0]] = b[2 : 2+int(b[1])]
		b = b[2+int(b[1]):]
	}
	return out
}

// datagram puts an answer into a frame.
func datagram(link tcpip.LinkAddress, to netip.Addr, payload []byte) []byte {
	const headers = header.EthernetMinimumSize + header.IPv4MinimumSize + header.UDPMinimumSize
	frame := make([]byte, headers, headers+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: mac, DstAddr: link, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(headers - header.EthernetMinimumSize + len(payload)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: address(user.Gateway), DstAddr: address(to),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(ip[header.IPv4MinimumSize:])
	// Without a checksum, which UDP may be over IPv4.
	u.Encode(&header.UDPFields{SrcPort: dhcpServerPort, DstPort: dhcpClientPort, Length: uint16(header.UDPMinimumSize + len(payload))})
	return append(frame, payload...)
}
