package network

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// state is what a network namespace holds, as far as a guest is to have it.
type state struct {
	Interfaces []Interface // in the order of their indices, without loopback and what this package made
	Objects    []object    // in the order in which they are made
	Refused    error       // why the guest cannot have another interface, nil without
}

// An object is an address, a route, a neighbour or a rule: the kernel's message about it, without what varies by itself.
type object struct {
	kind kind
	data string // of the message: its header and its attributes; the order of both is the kernel's
}

// kind is a kind of object, by the type of the message that makes one.
type kind uint16

const (
	address   kind = unix.RTM_NEWADDR
	route     kind = unix.RTM_NEWROUTE
	neighbour kind = unix.RTM_NEWNEIGH
	rule      kind = unix.RTM_NEWRULE
)

// remove is the type of the message that takes an object away.
func (k kind) remove() uint16 { return uint16(k) + 1 }

// Of struct rtmsg and the like: lengths, and offsets of what is looked at.
const (
	ifAddrLen   = unix.SizeofIfAddrmsg
	ifAddrFlags = 2
	ifAddrScope = 3
	ifAddrIndex = 4
	rtMsgLen    = unix.SizeofRtMsg
	rtTable     = 4
	rtProtocol  = 5
	rtScope     = 6
	rtType      = 7
	rtFlags     = 8
	ndMsgLen    = unix.SizeofNdMsg
	ndIndex     = 4
	ndState     = 8
	ndFlags     = 10
	ruleHdrLen  = 12
	ruleFlags   = 8
)

// TAPName is what TAPs are to be called, with a number of the kernel's choice: by their names they are known not to be the container's.
const TAPName = tapPrefix + "%d"

const tapPrefix = "govmm"

// IsTAP says whether an interface's name is one of TAPName's.
func IsTAP(name string) bool {
	number, ok := strings.CutPrefix(name, tapPrefix)
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// loopback is the index of lo in every network namespace.
const loopback = 1

// Read takes down the state of the calling thread's network namespace.
func Read() (*state, error) {
	c, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.read()
}

func (c conn) read() (*state, error) {
	s := &state{}
	all, err := c.links()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if ok, err := wanted(&i); err != nil {
			s.Refused = err
		} else if ok && !isPort(&i, all) {
			s.Interfaces = append(s.Interfaces, i)
		}
	}
	if len(s.Interfaces) == 0 {
		return s, nil
	}
	for _, list := range []struct {
		kind   kind
		header []byte
		object func(m []byte) ([]byte, bool)
	}{
		{address, make([]byte, ifAddrLen), addressObject},
		{route, make([]byte, rtMsgLen), routeObject},
		{neighbour, make([]byte, ndMsgLen), neighbourObject},
		{rule, make([]byte, ruleHdrLen), ruleObject},
	} {
		messages, err := c.dump(uint16(list.kind)+2, list.header)
		if err != nil {
			return nil, fmt.Errorf("read the network namespace: %w", plain(err))
		}
		var found []object
		for _, m := range messages {
			if m.Header.Type != netlink.HeaderType(list.kind) {
				continue
			}
			if data, ok := list.object(m.Data); ok {
				found = append(found, object{list.kind, string(data)})
			}
		}
		if list.kind == route {
			sortRoutes(found)
		}
		s.Objects = append(s.Objects, found...)
	}
	return s, nil
}

// wanted says whether the guest is to have an interface: those that carry Ethernet frames, and are up or named for a
// container. The kernel puts some of its own into each new namespace (sit0, gretap0, ...), which are down.
func wanted(i *Interface) (bool, error) {
	switch {
	case i.Flags&unix.IFF_LOOPBACK != 0, strings.HasPrefix(i.Name, tapPrefix) && i.Kind == "tun":
		return false, nil
	case i.Type != unix.ARPHRD_ETHER || len(i.MAC) != 6:
		if i.Up() {
			return false, fmt.Errorf("the container's network namespace has the interface %s, which carries no Ethernet frames: a micro-VM can only have interfaces that do, "+
				"such as veth, macvlan or a bridge's", i.Name)
		}
		return false, nil
	case !i.Up() && slices.Contains(fallbackTunnels, i.Name):
		return false, nil
	}
	return true, nil
}

// isPort says whether an interface is a part of another one, which has the addresses: the guest gets that, and the namespace's kernel
// takes the frames of all its ports there.
func isPort(i *Interface, all []Interface) bool {
	return i.Master != 0 && slices.ContainsFunc(all, func(m Interface) bool {
		return m.Index == i.Master && slices.Contains([]string{"bridge", "bond", "team"}, m.Kind)
	})
}

// fallbackTunnels are Ethernet interfaces that the kernel puts into each new namespace when their module is loaded.
var fallbackTunnels = []string{"gretap0", "erspan0", "ip6gretap0", "ip6erspan0"}

// addressObject reads struct ifaddrmsg. What the kernel made of an advertisement the guest makes itself.
func addressObject(m []byte) ([]byte, bool) {
	if len(m) < ifAddrLen {
		return nil, false
	}
	flags := uint32(m[ifAddrFlags])
	keep := filter(m[ifAddrLen:], func(d *netlink.AttributeDecoder, out *attributeEncoder) {
		switch d.Type() {
		case unix.IFA_FLAGS:
			flags = d.Uint32()
		case unix.IFA_CACHEINFO, ifaProto:
		default:
			out.Bytes(d.TypeFlags()|d.Type(), d.Bytes())
		}
	})
	ofLoopback := binary.NativeEndian.Uint32(m[ifAddrIndex:]) == loopback && m[ifAddrScope] == unix.RT_SCOPE_HOST
	v6 := m[0] == unix.AF_INET6
	advertised := v6 && flags&unix.IFA_F_PERMANENT == 0 && flags&(unix.IFA_F_MANAGETEMPADDR|unix.IFA_F_TEMPORARY) != 0
	if keep == nil || ofLoopback || advertised {
		return nil, false
	}
	flags &= unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MCAUTOJOIN | unix.IFA_F_NODAD
	head := slices.Clone(m[:ifAddrLen])
	head[ifAddrFlags] = byte(flags)
	return append(append(head, keep...), attributes(func(e *attributeEncoder) { e.Uint32(unix.IFA_FLAGS, flags) })...), true
}

// Attributes that golang.org/x/sys/unix has no name for.
const (
	ifaProto = 11 // IFA_PROTO: who made an address
	rtaNHID  = 30 // RTA_NH_ID
)

// routeObject reads struct rtmsg. Routes that the kernel makes of addresses, and of advertisements, it makes in the guest as well.
func routeObject(m []byte) ([]byte, bool) {
	if len(m) < rtMsgLen {
		return nil, false
	}
	flags := binary.NativeEndian.Uint32(m[rtFlags:])
	switch {
	case m[rtProtocol] == unix.RTPROT_KERNEL, m[rtProtocol] == unix.RTPROT_RA, m[rtTable] == unix.RT_TABLE_LOCAL, flags&unix.RTM_F_CLONED != 0,
		m[0] != unix.AF_INET && m[0] != unix.AF_INET6, m[rtType] == unix.RTN_LOCAL, m[rtType] == unix.RTN_BROADCAST, m[rtType] == unix.RTN_MULTICAST,
		m[rtType] == unix.RTN_ANYCAST:
		return nil, false
	}
	keep := filter(m[rtMsgLen:], func(d *netlink.AttributeDecoder, out *attributeEncoder) {
		switch d.Type() {
		case unix.RTA_CACHEINFO, rtaNHID: // the next hops of an id stand there in full as well
		default:
			out.Bytes(d.TypeFlags()|d.Type(), d.Bytes())
		}
	})
	if keep == nil {
		return nil, false
	}
	head := slices.Clone(m[:rtMsgLen])
	binary.NativeEndian.PutUint32(head[rtFlags:], flags&unix.RTNH_F_ONLINK)
	return append(head, keep...), true
}

// neighbourObject reads struct ndmsg. What the kernel has learned, the guest learns.
func neighbourObject(m []byte) ([]byte, bool) {
	if len(m) < ndMsgLen || binary.NativeEndian.Uint16(m[ndState:])&unix.NUD_PERMANENT == 0 {
		return nil, false
	}
	keep := filter(m[ndMsgLen:], func(d *netlink.AttributeDecoder, out *attributeEncoder) {
		switch d.Type() {
		case unix.NDA_CACHEINFO, unix.NDA_PROBES:
		default:
			out.Bytes(d.TypeFlags()|d.Type(), d.Bytes())
		}
	})
	return append(slices.Clone(m[:ndMsgLen]), keep...), keep != nil
}

// ruleObject reads struct fib_rule_hdr. The first rules of the kernel are in the guest already.
func ruleObject(m []byte) ([]byte, bool) {
	if len(m) < ruleHdrLen {
		return nil, false
	}
	priority := uint32(0)
	keep := filter(m[ruleHdrLen:], func(d *netlink.AttributeDecoder, out *attributeEncoder) {
		if d.Type() == unix.FRA_PRIORITY {
			priority = d.Uint32()
		}
		out.Bytes(d.TypeFlags()|d.Type(), d.Bytes())
	})
	if keep == nil || priority == 0 || priority == 32766 || priority == 32767 {
		return nil, false
	}
	head := slices.Clone(m[:ruleHdrLen])
	flags := binary.NativeEndian.Uint32(head[ruleFlags:])
	binary.NativeEndian.PutUint32(head[ruleFlags:], flags&(unix.FIB_RULE_INVERT|unix.FIB_RULE_PERMANENT))
	return append(head, keep...), true
}

// filter rewrites attributes, in their order; nil is a message that does not decode.
func filter(b []byte, f func(*netlink.AttributeDecoder, *attributeEncoder)) []byte {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil
	}
	out := netlink.NewAttributeEncoder()
	for d.Next() {
		f(d, out)
	}
	kept, err := out.Encode()
	if err != nil || d.Err() != nil {
		return nil
	}
	return append([]byte{}, kept...)
}

// sortRoutes puts those that lead to a neighbour before those that need them to reach their gateway.
func sortRoutes(list []object) {
	slices.SortStableFunc(list, func(a, b object) int {
		return int(b.data[rtScope]) - int(a.data[rtScope])
	})
}
