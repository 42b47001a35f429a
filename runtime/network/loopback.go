package network

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Relay carries what lives on loopback between a namespace and its guest: there is one loopback in either, and no frame of it leaves.
type Relay interface {
	// Mirror listens on the namespace's loopback for who dials the guest's servers, and returns where.
	Mirror() ([]Mirror, error)
	// Serve has the guest stand in for the namespace's name server, and returns the ports of Resolver at which it does.
	Serve() (tcp, udp uint16, err error)
	// Sockets reads /proc/net/udp of the namespace.
	Sockets() ([]byte, error)
}

// A Mirror is a port of the monitor's on the namespace's loopback.
type Mirror struct {
	Protocol byte // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	IPv6     bool
	Port     uint16
}

// Resolver is where docker's embedded name server answers in a container on a network of the user's own. It is dockerd that listens
// there, in the namespace, at a port to which rules of the namespace lead those who ask at 53.
var Resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// dnsPort is the port of name servers.
const dnsPort = 53

// The ports that the namespace's own look-ups are sent from, firstOwn and up: they tell answers that are for it from answers that are
// for the guest, which has the same address.
const (
	firstOwn = 0xff00
	lastOwn  = 0xffff
)

// relay begins to relay what there is to relay. It costs nothing in a namespace without an interface, and only rules where there are some.
func (m *Manager) relay() error {
	if m.cfg.Relay == nil || len(m.nics) == 0 {
		return nil
	}
	if !m.mirrored {
		m.mirrored = true
		if err := m.mirror(); err != nil {
			m.cfg.Logger.Warn("the guest's servers are not to be reached on the namespace's loopback", "error", err)
		}
	}
	if m.named {
		return nil
	}
	sockets, err := m.cfg.Relay.Sockets()
	if errors.Is(err, os.ErrNotExist) { // a host without IPv4
		return nil
	}
	if err != nil || !listens(sockets, Resolver) {
		return err
	}
	m.named = true
	if err := m.serveNames(); err != nil {
		return fmt.Errorf("the name server at %v: %w", Resolver, err)
	}
	return nil
}

// listens tells from /proc/net/udp whether a socket has an IPv4 address.
func listens(sockets []byte, a netip.Addr) bool {
	b := a.As4()
	want := make([]byte, 4)
	binary.BigEndian.PutUint32(want, binary.NativeEndian.Uint32(b[:]))
	return bytes.Contains(sockets, bytes.ToUpper(fmt.Appendf(nil, " %s:", hex.EncodeToString(want))))
}

func (m *Manager) mirror() error {
	ports, err := m.cfg.Relay.Mirror()
	if err != nil {
		return err
	}
	return m.redirect.Mirror(ports)
}

// ownTable is the table of what does not depend on an interface.
var ownTable = table{familyInet, "govmm"}

func port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// Mirror sends what is dialled in the namespace, at the namespace itself, to its own ports. The name server's stays.
func (r *redirector) Mirror(ports []Mirror) error {
	out := chain{"mirror", "nat", hookOutput, priorityDNAT, ""}
	messages := []netlink.Message{ownTable.create(), ownTable.chain(out)}
	for _, p := range ports {
		// Where the destination is in the header, in bytes, and one that stays.
		family, offset, but := byte(unix.NFPROTO_IPV4), uint32(16), Resolver.AsSlice()
		if p.IPv6 {
			family, offset, but = unix.NFPROTO_IPV6, 24, make([]byte, 16)
		}
		messages = append(messages, ownTable.rule(out.name,
			meta(unix.NFT_META_OIF), equal(index(loopback)...),
			meta(unix.NFT_META_NFPROTO), equal(family),
			meta(unix.NFT_META_L4PROTO), equal(p.Protocol),
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, uint32(len(but))), compare(unix.NFT_CMP_NEQ, but),
			load(port(p.Port)), redirect(),
		))
	}
	return errNAT(r.nft.batch(messages...))
}

// errNAT explains why a connection cannot be sent elsewhere.
func errNAT(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("nftables: %w: the host's kernel needs CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR and CONFIG_NFT_MASQ", err)
	}
	return err
}

// serveNames gives the guest the name server, and the server, which asks others from within the namespace, their answers.
func (m *Manager) serveNames() error {
	if err := m.redirect.KeepAnswers(); err != nil {
		return err
	}
	tcp, udp, err := m.cfg.Relay.Serve()
	if err != nil {
		return err
	}
	_, err = m.carryOut([]step{{Protocol: unix.NETLINK_NETFILTER, Request: namesInGuest(tcp, udp), What: "nftables"}})
	return err
}

// namesInGuest leads those who ask the name server to PID 1, which must not listen at port 53 itself: a server of the container's may want
// to have it at every address.
func namesInGuest(tcp, udp uint16) []byte {
	t := table{familyIPv4, "govmm"}
	out := chain{"names", "nat", hookOutput, priorityDNAT, ""}
	rule := func(protocol byte, to uint16) netlink.Message {
		return t.rule(out.name,
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4), equal(Resolver.AsSlice()...),
			meta(unix.NFT_META_L4PROTO), equal(protocol),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), equal(port(dnsPort)...),
			load(Resolver.AsSlice()), loadInto(second, port(to)), destinationNAT(),
		)
	}
	return encodeBatch(t.createWith(0), t.chain(out), rule(unix.IPPROTO_TCP, tcp), rule(unix.IPPROTO_UDP, udp))
}

// KeepAnswers lets the namespace ask name servers itself, from ports that the guest is not to use for the same. Its connection
// tracking gives the answers back to who asked.
func (r *redirector) KeepAnswers() error {
	names := table{familyInet, "govmm-names"}
	out := chain{"ask", "nat", hookPostrouting, prioritySNAT, ""}
	messages := []netlink.Message{names.create(), names.chain(out)}
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		messages = append(messages, names.rule(out.name,
			meta(unix.NFT_META_OIF), compare(unix.NFT_CMP_NEQ, index(loopback)),
			meta(unix.NFT_META_L4PROTO), equal(protocol),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), equal(port(dnsPort)...),
			load(port(firstOwn)), loadInto(second, port(lastOwn)), masquerade(),
		))
	}
	for i, tap := range r.taps {
		messages = append(messages, keepAnswers(tableFor(i), tap)...)
	}
	if err := r.nft.batch(messages...); err != nil {
		return errNAT(err)
	}
	r.answers = true
	return nil
}

// nfAccept is NF_ACCEPT (linux/netfilter.h).
const nfAccept = 1

// keepAnswers makes an interface's frames that answer the namespace enter it: from port 53 to one of its own. Both the namespace and the
// guest, of which the other end knows only one, get what says where an address is.
func keepAnswers(t table, tap int32) []netlink.Message {
	accept := verdict(nfAccept)
	both := []expression{load(index(tap)), duplicate(), accept}
	answer := func(protocol byte) []expression {
		return []expression{
			meta(unix.NFT_META_L4PROTO), equal(protocol),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 3), equal(0, dnsPort, firstOwn>>8),
			accept,
		}
	}
	const arpReply, advertisement = 2, 136 // RFC 826, RFC 4861 §4.4
	return []netlink.Message{
		t.firstRule(chainIn, answer(unix.IPPROTO_UDP)...),
		t.firstRule(chainIn, answer(unix.IPPROTO_TCP)...),
		t.firstRule(chainIn, append([]expression{
			meta(unix.NFT_META_PROTOCOL), equal(port(unix.ETH_P_ARP)...),
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 2), equal(0, arpReply),
		}, both...)...),
		t.firstRule(chainIn, append([]expression{
			meta(unix.NFT_META_L4PROTO), equal(unix.IPPROTO_ICMPV6),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1), equal(advertisement),
		}, both...)...),
	}
}
