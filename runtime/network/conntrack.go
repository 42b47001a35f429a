package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What a message about a tracked connection consists of (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet           = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctTupleOriginal = 1                                 // CTA_TUPLE_ORIG
	ctTupleReply    = 2                                 // CTA_TUPLE_REPLY
	ctTupleIP       = 1                                 // CTA_TUPLE_IP
	ctTupleProto    = 2                                 // CTA_TUPLE_PROTO
	ctProtocol      = 1                                 // CTA_PROTO_NUM
	ctSourcePort    = 2                                 // CTA_PROTO_SRC_PORT
	ctTargetPort    = 3                                 // CTA_PROTO_DST_PORT
)

// ctAddresses are the attributes of source and destination: CTA_IP_V4_SRC and _DST, or CTA_IP_V6_SRC and _DST.
func ctAddresses(a netip.Addr) (source, target uint16) {
	if a.Is4() {
		return 1, 2
	}
	return 3, 4
}

var errNotTracked = errors.New("the kernel says nothing of where it was to go")

// OriginalTarget asks the connection tracking of the calling thread's network namespace where a datagram was to go that came from one
// address to another, to which a rule had sent it.
func OriginalTarget(from, to netip.AddrPort) (netip.AddrPort, error) {
	family := family(unix.AF_INET6)
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	// The other direction has the addresses that are seen here.
	question := attributes(func(e *attributeEncoder) {
		nested(e, ctTupleReply, func(e *attributeEncoder) {
			nested(e, ctTupleIP, func(e *attributeEncoder) {
				source, target := ctAddresses(to.Addr())
				e.Bytes(source, to.Addr().AsSlice())
				e.Bytes(target, from.Addr().AsSlice())
			})
			nested(e, ctTupleProto, func(e *attributeEncoder) {
				e.Uint8(ctProtocol, unix.IPPROTO_UDP)
				e.Bytes(ctSourcePort, port(to.Port()))
				e.Bytes(ctTargetPort, port(from.Port()))
			})
		})
	})
	answer, err := ask(nfMessageOf(ctGet, family, 0, 0, question))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("connection tracking: %w", err)
	}
	return originalTarget(answer.Data)
}

// ask asks nfnetlink for one thing. The library cannot: kernels mark the answer as one of several, and no other comes.
func ask(m netlink.Message) (answer netlink.Message, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return answer, err
	}
	defer unix.Close(fd)
	m.Header.Length = uint32(headerLen + len(m.Data))
	b, err := m.MarshalBinary()
	if err != nil {
		return answer, err
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return answer, err
	}
	b = make([]byte, os.Getpagesize())
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT) // the kernel has answered when the question is sent
	if err != nil {
		return answer, err
	}
	if err := answer.UnmarshalBinary(b[:n]); err != nil {
		return answer, err
	}
	if answer.Header.Type == netlink.Error && len(answer.Data) >= 4 {
		return answer, unix.Errno(-int32(binary.NativeEndian.Uint32(answer.Data)))
	}
	return answer, nil
}

// originalTarget reads the destination of a tracked connection's first packet.
func originalTarget(message []byte) (netip.AddrPort, error) {
	if len(message) < sizeofNfgenmsg {
		return netip.AddrPort{}, errNotTracked
	}
	d, err := netlink.NewAttributeDecoder(message[sizeofNfgenmsg:])
	if err != nil {
		return netip.AddrPort{}, err
	}
	var address netip.Addr
	var port uint16
	for d.Next() {
		if d.Type() != ctTupleOriginal {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				switch d.Type() {
				case ctTupleIP:
					d.Nested(func(d *netlink.AttributeDecoder) error {
						address = targetAddress(d)
						return nil
					})
				case ctTupleProto:
					d.Nested(func(d *netlink.AttributeDecoder) error {
						port = targetPort(d)
						return nil
					})
				}
			}
			return nil
		})
	}
	if d.Err() != nil || !address.IsValid() || port == 0 {
		return netip.AddrPort{}, errors.Join(errNotTracked, d.Err())
	}
	return netip.AddrPortFrom(address, port), nil
}

func targetAddress(d *netlink.AttributeDecoder) (a netip.Addr) {
	for d.Next() {
		if b, ok := netip.AddrFromSlice(d.Bytes()); ok {
			if _, target := ctAddresses(b); d.Type() == target {
				a = b
			}
		}
	}
	return a
}

func targetPort(d *netlink.AttributeDecoder) (n uint16) {
	for d.Next() {
		if b := d.Bytes(); d.Type() == ctTargetPort && len(b) == 2 {
			n = uint16(b[0])<<8 | uint16(b[1])
		}
	}
	return n
}

// sizeofNfgenmsg is the length of struct nfgenmsg.
const sizeofNfgenmsg = 4
