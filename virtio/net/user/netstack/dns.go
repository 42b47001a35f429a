package netstack

import (
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	dnsPort = 53
	// serverTime is how long a name server may take before the next one is asked.
	serverTime = 3 * time.Second
	// askingTime is how long a socket of the guest's that asks is remembered.
	askingTime = 10 * time.Second
	idSize     = 2 // of a message's number, which it begins with (RFC 1035 §4.1.1)
)

// nameServers are the host's, the one that answered last first.
func (n *Network) nameServers() []netip.AddrPort {
	all := n.cfg.Nameservers
	var out []netip.AddrPort
	for i := range all {
		out = append(out, netip.AddrPortFrom(all[(int(n.server.Load())+i)%len(all)], dnsPort))
	}
	return out
}

// answerQuestions passes the questions of one socket of the guest's on, one after the other. Nobody looks into them.
func (n *Network) answerQuestions(guest *gonet.UDPConn) {
	for buf := make([]byte, maxDatagram); ; {
		_ = guest.SetReadDeadline(time.Now().Add(askingTime))
		k, err := guest.Read(buf)
		if err != nil {
			return
		}
		if answer := n.ask(buf[:k]); answer != nil {
			_, _ = guest.Write(answer)
		}
	}
}

// ask asks one name server after the other. Of none that answers the guest hears nothing, as of one that it would ask itself.
func (n *Network) ask(question []byte) []byte {
	if len(question) < idSize {
		return nil
	}
	first := int(n.server.Load())
	for i, server := range n.nameServers() {
		if answer := askServer(n.target(server), question); answer != nil {
			n.server.Store(int32((first + i) % len(n.cfg.Nameservers)))
			return answer
		}
	}
	return nil
}

func askServer(server netip.AddrPort, question []byte) []byte {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil
	}
	defer c.Close()
	if _, err := c.Write(question); err != nil {
		return nil
	}
	_ = c.SetReadDeadline(time.Now().Add(serverTime))
	for buf := make([]byte, maxDatagram); ; {
		k, err := c.Read(buf)
		if err != nil {
			return nil
		}
		if k >= idSize && [idSize]byte(buf) == [idSize]byte(question) {
			return buf[:k]
		}
	}
}
