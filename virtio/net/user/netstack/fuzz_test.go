package netstack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/govmm/govmm/virtio/net/user"
)

// frameOf is a packet of the guest's behind all its headers.
func frameOf(protocol tcpip.NetworkProtocolNumber, packet []byte) []byte {
	b := make([]byte, headerSize+header.EthernetMinimumSize)
	header.Ethernet(b[headerSize:]).Encode(&header.EthernetFields{SrcAddr: guestMAC, DstAddr: mac, Type: protocol})
	return append(b, packet...)
}

// arpFor asks for an address.
func arpFor(a netip.Addr) []byte {
	p := header.ARP(make([]byte, header.ARPSize))
	p.SetIPv4OverEthernet()
	p.SetOp(header.ARPRequest)
	copy(p.HardwareAddressSender(), guestMAC)
	copy(p.ProtocolAddressSender(), user.Guest.Addr().AsSlice())
	copy(p.ProtocolAddressTarget(), a.AsSlice())
	return frameOf(header.ARPProtocolNumber, p)
}

// ipFrame is a packet of IPv4 to an address, whose checksums nobody looks at.
func ipFrame(to string, protocol tcpip.TransportProtocolNumber, payload []byte) []byte {
	ip := header.IPv4(make([]byte, header.IPv4MinimumSize))
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip) + len(payload)), TTL: 64, Protocol: uint8(protocol), SrcAddr: address(user.Guest.Addr()), DstAddr: address(netip.MustParseAddr(to)),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return frameOf(header.IPv4ProtocolNumber, append(ip, payload...))
}

func tcpSegment(flags header.TCPFlags, seq, ack uint32, data string) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{SrcPort: 1000, DstPort: 80, SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 60000})
	return append(b, data...)
}

func udpDatagram(port uint16, data string) []byte {
	b := make([]byte, header.UDPMinimumSize)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: 1000, DstPort: port, Length: uint16(len(b) + len(data))})
	return append(b, data...)
}

// messages packs messages into an input: each behind its length.
func messages(list ...[]byte) []byte {
	var b []byte
	for _, m := range list {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// FuzzFrames throws messages of a guest's at a network, whose connections go to a server of the test's. It may refuse all of them, but
// keeps within its bounds, sends nothing but frames, and still answers afterwards.
func FuzzFrames(f *testing.F) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go echoUDP(u)
	f.Cleanup(func() {
		_ = l.Close()
		_ = u.Close()
	})
	const public = "192.0.2.1"
	offloads := binary.LittleEndian.AppendUint64(nil, segments)
	echo := []byte{byte(header.ICMPv4Echo), 0, 0, 0, 1, 2, 0, 1, 'p'}
	f.Add(messages(offloads, arpFor(user.Gateway), ipFrame(public, header.TCPProtocolNumber, tcpSegment(header.TCPFlagSyn, 1, 0, "")),
		ipFrame(public, header.TCPProtocolNumber, tcpSegment(header.TCPFlagAck|header.TCPFlagPsh, 2, 1, "data"))))
	f.Add(messages(arpFor(user.Gateway), ipFrame(public, header.UDPProtocolNumber, udpDatagram(9, "data")), ipFrame("10.0.2.3", header.UDPProtocolNumber, udpDatagram(53, "question"))))
	f.Add(messages(ipFrame(public, header.ICMPv4ProtocolNumber, echo), ipFrame("10.0.2.2", header.ICMPv4ProtocolNumber, echo)))
	f.Add(messages(dhcpFrame(dhcpDiscover), dhcpFrame(dhcpRequest, appendOption(nil, optionAddress, 10, 0, 2, 15)...), solicitation()))
	f.Add(messages(solicitation()[:headerSize+header.EthernetMinimumSize+10], make([]byte, 8), nil, make([]byte, 11)))
	f.Fuzz(func(t *testing.T, input []byte) {
		var mu sync.Mutex
		answered := false
		n, err := New(user.Config{Nameservers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, func(buffers [][]byte) error {
			var all []byte
			for _, b := range buffers {
				all = append(all, b...)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(all) < headerSize+header.EthernetMinimumSize || len(all) > headerSize+header.EthernetMinimumSize+65535 ||
				header.Ethernet(all[headerSize:]).SourceAddress() != mac {
				t.Errorf("no frame of ours: % x", all)
			}
			answered = answered || header.Ethernet(all[headerSize:]).Type() == header.ARPProtocolNumber
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		n.reach = func(a netip.AddrPort) netip.AddrPort {
			if a.Port() == 53 || a.Port()%2 == 1 {
				return u.LocalAddr().(*net.UDPAddr).AddrPort()
			}
			return l.Addr().(*net.TCPAddr).AddrPort()
		}
		for len(input) >= 2 {
			size := min(int(binary.LittleEndian.Uint16(input)), len(input)-2)
			n.Deliver(input[2 : 2+size])
			input = input[2+size:]
		}
		n.mu.Lock()
		pings := len(n.pinged)
		n.mu.Unlock()
		for name, c := range map[string][2]int32{
			"connections": {n.connections.n.Load(), maxConnections}, "conversations": {n.flows.n.Load(), maxFlows}, "questions": {n.asking.n.Load(), maxAsking},
			"pings": {int32(pings), maxPings},
		} {
			if c[0] < 0 || c[0] > c[1] {
				t.Errorf("%d %s", c[0], name)
			}
		}
		mu.Lock()
		answered = false
		mu.Unlock()
		n.Deliver(arpFor(user.Gateway))
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			done := answered
			mu.Unlock()
			if done {
				return
			}
			if time.Since(begin) > 5*time.Second {
				t.Fatal("the gateway answers no more")
			}
		}
	})
}
