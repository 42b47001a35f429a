package netstack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/govmm/govmm/virtio/net/user"
)

// capture is a network whose frames are kept.
func capture(t testing.TB, cfg user.Config) (*Network, *[][]byte) {
	t.Helper()
	var sent [][]byte
	n, err := New(cfg, func(buffers [][]byte) error {
		var all []byte
		for _, b := range buffers {
			all = append(all, b...)
		}
		sent = append(sent, all[headerSize:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n, &sent
}

// dhcpFrame is a client's message behind its headers, and that of virtio-net.
func dhcpFrame(kind byte, options ...byte) []byte {
	m := make([]byte, bootOptions)
	m[0], m[1], m[2] = bootRequest, bootHardware, 6
	copy(m[4:], "\x11\x22\x33\x44")
	copy(m[bootMAC:], guestMAC)
	copy(m[bootCookie:], dhcpCookie[:])
	m = append(append(appendOption(m, optionType, kind), options...), optionEnd)
	b := datagram(header.EthernetBroadcastAddress, netip.MustParseAddr("255.255.255.255"), m)
	eth, ip := header.Ethernet(b), header.IPv4(b[header.EthernetMinimumSize:])
	copy(eth[6:], guestMAC)
	ip.SetSourceAddress(tcpip.AddrFrom4([4]byte{}))
	u := header.UDP(ip.Payload())
	u.SetSourcePort(dhcpClientPort)
	u.SetDestinationPort(dhcpServerPort)
	return append(make([]byte, headerSize), b...)
}

func TestDHCP(t *testing.T) {
	n, sent := capture(t, user.Config{Search: []string{"example.test", "a..b", "test."}})
	address := string(user.Guest.Addr().AsSlice())
	for _, tt := range []struct {
		name    string
		kind    byte
		options []byte
		want    byte // 0 for no answer
	}{
		{"discover", dhcpDiscover, nil, dhcpOffer},
		{"request", dhcpRequest, appendOption(nil, optionAddress, address[0], address[1], address[2], address[3]), dhcpACK},
		{"request of another address", dhcpRequest, appendOption(nil, optionAddress, 10, 0, 2, 77), dhcpNAK},
		{"request of another server", dhcpRequest, appendOption(nil, optionServer, 10, 0, 2, 77), 0},
		{"inform", dhcpInform, nil, dhcpACK},
		{"release", 7, nil, 0},
		{"an option that is longer than the message", dhcpDiscover, []byte{optionServer, 200, 1}, dhcpOffer},
	} {
		*sent = nil
		n.Deliver(dhcpFrame(tt.kind, tt.options...))
		if tt.want == 0 {
			if len(*sent) != 0 {
				t.Errorf("%s: answered", tt.name)
			}
			continue
		}
		if len(*sent) != 1 {
			t.Errorf("%s: %d answers", tt.name, len(*sent))
			continue
		}
		frame := (*sent)[0]
		ip := header.IPv4(frame[header.EthernetMinimumSize:])
		if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() {
			t.Errorf("%s: a bad packet: % x", tt.name, ip)
			continue
		}
		m := ip.Payload()[header.UDPMinimumSize:]
		options := dhcpOptions(m[bootOptions:])
		if string(options[optionType]) != string([]byte{tt.want}) || string(m[4:8]) != "\x11\x22\x33\x44" || len(m) < bootMinimum {
			t.Errorf("%s: message % x", tt.name, m)
		}
		if tt.want == dhcpNAK {
			continue
		}
		if tt.kind != dhcpInform && (string(m[bootYours:bootYours+4]) != address || len(options[optionLease]) != 4) {
			t.Errorf("%s: message % x", tt.name, m)
		}
		if string(options[optionMask]) != "\xff\xff\xff\x00" || string(options[optionRouter]) != string(user.Gateway.AsSlice()) ||
			string(options[optionDNS]) != string(user.DNS.AsSlice()) || string(options[optionSearch]) != "\x07example\x04test\x00\x04test\x00" {
			t.Errorf("%s: options %q", tt.name, options)
		}
	}
}

// solicitation asks for a router.
func solicitation() []byte {
	m := make([]byte, 8)
	m[0] = byte(header.ICMPv6RouterSolicit)
	from, to := header.LinkLocalAddr(guestMAC), header.IPv6AllRoutersLinkLocalMulticastAddress
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, from, to, uint16(len(m)))))
	b := make([]byte, headerSize+header.EthernetMinimumSize+header.IPv6MinimumSize)
	header.Ethernet(b[headerSize:]).Encode(&header.EthernetFields{SrcAddr: guestMAC, DstAddr: "\x33\x33\x00\x00\x00\x02", Type: header.IPv6ProtocolNumber})
	header.IPv6(b[headerSize+header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(m)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit, SrcAddr: from, DstAddr: to,
	})
	return append(b, m...)
}

func TestAdvertisement(t *testing.T) {
	n, sent := capture(t, user.Config{})
	n.Deliver(solicitation())
	if len(*sent) != 1 {
		t.Fatalf("%d answers", len(*sent))
	}
	ip := header.IPv6((*sent)[0][header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.SourceAddress() != address(linkLocal) || ip.HopLimit() != 255 {
		t.Fatalf("a bad packet: % x", ip)
	}
	m := header.ICMPv6(ip.Payload())
	if sum := checksum.Checksum(m, header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(m)))); sum != 0xffff {
		t.Errorf("checksum: %#x", sum)
	}
	advert := header.NDPRouterAdvert(m.MessageBody())
	it, err := advert.Options().Iter(true)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	for {
		o, done, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		if done {
			break
		}
		kinds++
		switch o := o.(type) {
		case header.NDPPrefixInformation:
			if got := o.Subnet(); got != subnet(user.Guest6) || !o.AutonomousAddressConfigurationFlag() || !o.OnLinkFlag() {
				t.Errorf("prefix %v", got)
			}
		case header.NDPRecursiveDNSServer:
			if got, err := o.Addresses(); err != nil || len(got) != 1 || got[0] != address(user.DNS6) {
				t.Errorf("name servers %v, %v", got, err)
			}
		}
	}
	if kinds < 3 {
		t.Errorf("%d options", kinds)
	}
	far := solicitation()
	far[headerSize+header.EthernetMinimumSize+7] = 254 // of the hop limit: it comes from elsewhere
	*sent = nil
	if n.Deliver(far); len(*sent) != 0 {
		t.Error("one from elsewhere was answered")
	}
}

// TestAdmit: frames with others' addresses are not the guest's to send.
func TestAdmit(t *testing.T) {
	packet := func(from string) []byte {
		b := datagram(mac, user.Gateway, nil)
		copy(b[6:], guestMAC)
		copy(b[header.EthernetMinimumSize+12:], netip.MustParseAddr(from).AsSlice())
		return b
	}
	for from, want := range map[string]bool{
		"10.0.2.15": true, "10.0.2.77": true, "0.0.0.0": true, "10.0.2.2": false, "10.0.2.3": false, "127.0.0.1": false, "192.0.2.1": false, "224.0.0.1": false,
	} {
		if got := admit(packet(from)); got != want {
			t.Errorf("from %s: %v", from, got)
		}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"another's link address":  func(b []byte) []byte { copy(b, "\x02\x00\x00\x00\x00\x99"); return b },
		"from a group":            func(b []byte) []byte { b[6] |= 1; return b },
		"from ourselves":          func(b []byte) []byte { copy(b[6:], mac); return b },
		"of an unknown protocol":  func(b []byte) []byte { b[12] = 0x99; return b },
		"shorter than its header": func(b []byte) []byte { return b[:header.EthernetMinimumSize+19] },
	} {
		if admit(change(packet("10.0.2.15"))) {
			t.Errorf("admitted: %s", name)
		}
	}
}

// TestBounds: connections, conversations and questions beyond the bounds are refused, and what is over makes room.
func TestBounds(t *testing.T) {
	g := pair(t, user.Config{}, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := through(l.Addr())
	g.network.connections.n.Store(maxConnections - 2)
	var open []*gonet.TCPConn
	for i := range 3 {
		c, err := g.dialTCP(to)
		if (err == nil) != (i < 2) {
			t.Fatalf("connection %d: %v", i, err)
		}
		if err == nil {
			open = append(open, c)
		}
	}
	for _, c := range open {
		_ = c.Close()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for i := 0; g.network.connections.n.Load() > maxConnections-2; i++ {
		if i == 100 {
			t.Fatalf("%d connections count", g.network.connections.n.Load())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if c, err := g.dialTCP(to); err != nil {
		t.Errorf("when some are over: %v", err)
	} else {
		_ = c.Close()
	}
	g.network.flows.n.Store(maxFlows)
	c := g.dialUDP(t, to)
	for i := 0; err == nil || !strings.Contains(err.Error(), "refused"); i++ {
		if i == 100 {
			t.Fatalf("one conversation too many: %v", err)
		}
		_, err = c.Write([]byte("x"))
		time.Sleep(20 * time.Millisecond)
	}
}
