package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Interface is a network interface, the container's or the guest's.
type Interface struct {
	Index      int32
	Name       string
	MAC        net.HardwareAddr
	MTU        uint32 // bytes
	QueueLen   uint32 // frames
	Flags      uint32 // IFF_*
	Type       uint16 // ARPHRD_*
	Kind       string // of the driver, such as veth; "" for hardware
	Master     int32  // index of the bridge or the like whose port it is, 0 for none
	GSOMaxSize uint32 // bytes, 0 where the kernel does not say

	IPv4    []uint32 // net.ipv4.conf, value of IPV4_DEVCONF_n at n-1
	IPv6    []uint32 // net.ipv6.conf, value of DEVCONF_n at n
	GenMode uint8    // how the kernel makes the link-local address (IFLA_INET6_ADDR_GEN_MODE)
}

// Up says whether the interface is switched on.
func (i *Interface) Up() bool { return i.Flags&unix.IFF_UP != 0 }

// errShort is a netlink message that ends early.
var errShort = errors.New("netlink: a message is too short")

// ifInfoLen is the length of struct ifinfomsg.
const ifInfoLen = unix.SizeofIfInfomsg

// ifInfo is struct ifinfomsg of a request about an interface; mask says which flags are meant.
func ifInfo(index int32, flags, mask uint32) []byte {
	b := make([]byte, 4, ifInfoLen)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, mask)
}

// parseLink reads an RTM_NEWLINK message, which may be a hostile guest's.
func parseLink(data []byte) (Interface, error) {
	if len(data) < ifInfoLen {
		return Interface{}, errShort
	}
	i := Interface{
		Type:  binary.NativeEndian.Uint16(data[2:]),
		Index: int32(binary.NativeEndian.Uint32(data[4:])),
		Flags: binary.NativeEndian.Uint32(data[8:]),
	}
	d, err := netlink.NewAttributeDecoder(data[ifInfoLen:])
	if err != nil {
		return i, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			i.Name = d.String()
		case unix.IFLA_ADDRESS:
			i.MAC = slices.Clone(d.Bytes())
		case unix.IFLA_MTU:
			i.MTU = d.Uint32()
		case unix.IFLA_TXQLEN:
			i.QueueLen = d.Uint32()
		case unix.IFLA_GSO_MAX_SIZE:
			i.GSOMaxSize = d.Uint32()
		case unix.IFLA_MASTER:
			i.Master = int32(d.Uint32())
		case unix.IFLA_LINKINFO:
			d.Nested(func(d *netlink.AttributeDecoder) error {
				for d.Next() {
					if d.Type() == unix.IFLA_INFO_KIND {
						i.Kind = d.String()
					}
				}
				return nil
			})
		case unix.IFLA_AF_SPEC:
			d.Nested(i.parseFamilies)
		}
	}
	return i, d.Err()
}

// parseFamilies reads IFLA_AF_SPEC: the interface's sysctls, all in one message.
func (i *Interface) parseFamilies(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.AF_INET:
			d.Nested(func(d *netlink.AttributeDecoder) error {
				for d.Next() {
					if d.Type() == unix.IFLA_INET_CONF {
						i.IPv4 = words(d.Bytes())
					}
				}
				return nil
			})
		case unix.AF_INET6:
			d.Nested(func(d *netlink.AttributeDecoder) error {
				for d.Next() {
					switch d.Type() {
					case unix.IFLA_INET6_CONF:
						i.IPv6 = words(d.Bytes())
					case unix.IFLA_INET6_ADDR_GEN_MODE:
						i.GenMode = d.Uint8()
					}
				}
				return nil
			})
		}
	}
	return nil
}

func words(b []byte) []uint32 {
	out := make([]uint32, len(b)/4)
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

// links lists the interfaces of the namespace.
func (c conn) links() ([]Interface, error) {
	messages, err := c.dump(unix.RTM_GETLINK, ifInfo(0, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", plain(err))
	}
	out := make([]Interface, 0, len(messages))
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		i, err := parseLink(m.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}
