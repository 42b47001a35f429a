package network

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A step is one change that the guest makes of its network: a netlink request, or a file of /proc/sys/net.
type step struct {
	Protocol uint8 // NETLINK_*; 0 is NETLINK_ROUTE
	Request  []byte
	Path     string // below /proc/sys/net
	Value    string
	What     string  // for errors
	object   *object // what it makes or takes away, nil for anything else
	// Fine are errors that do not matter: what it makes is there, or what it takes away is gone.
	Fine []unix.Errno
}

// indices tell which of the guest's interfaces stand for the namespace's, by their indices. Loopback's is the same.
type indices map[int32]int32

func newIndices() indices { return indices{loopback: loopback} }

// nameSteps gives a guest's interface the name, the size, the sysctls of the namespace's, before it has addresses. Both are what they are
// now: what is the same already takes no step.
func nameSteps(host, guest *Interface) []step {
	var out []step
	change := attributes(func(e *attributeEncoder) {
		if host.Name != guest.Name {
			e.String(unix.IFLA_IFNAME, host.Name)
		}
		if host.MTU != guest.MTU {
			e.Uint32(unix.IFLA_MTU, host.MTU)
		}
		if host.QueueLen != guest.QueueLen {
			e.Uint32(unix.IFLA_TXQLEN, host.QueueLen)
		}
		if len(guest.MAC) == len(host.MAC) && !slices.Equal(host.MAC, guest.MAC) {
			e.Bytes(unix.IFLA_ADDRESS, host.MAC)
		}
		familychanges(e, host, guest)
	})
	const switches = unix.IFF_NOARP | unix.IFF_MULTICAST | unix.IFF_ALLMULTI | unix.IFF_PROMISC
	// Flags without a mask would be all that the interface has afterwards.
	if mask := (host.Flags ^ guest.Flags) & switches; len(change) > 0 || mask != 0 {
		out = append(out, step{
			Request: encode(unix.RTM_NEWLINK, 0, append(ifInfo(guest.Index, host.Flags&mask, mask), change...)),
			What:    "interface " + host.Name,
		})
	}
	return append(out, sysctls6(host, guest)...)
}

// familyChanges encodes the IPv4 sysctls that differ, and how the link-local address is made.
func familychanges(e *attributeEncoder, host, guest *Interface) {
	different := map[uint16]uint32{}
	for i := range min(len(host.IPv4), len(guest.IPv4)) {
		if host.IPv4[i] != guest.IPv4[i] {
			different[uint16(i+1)] = host.IPv4[i]
		}
	}
	mode := host.GenMode != guest.GenMode && host.IPv6 != nil && guest.IPv6 != nil
	if len(different) == 0 && !mode {
		return
	}
	nested(e, unix.IFLA_AF_SPEC, func(e *attributeEncoder) {
		if len(different) > 0 {
			nested(e, unix.AF_INET, func(e *attributeEncoder) {
				nested(e, unix.IFLA_INET_CONF, func(e *attributeEncoder) {
					for _, i := range slices.Sorted(maps.Keys(different)) {
						e.Uint32(i, different[i])
					}
				})
			})
		}
		if mode {
			nested(e, unix.AF_INET6, func(e *attributeEncoder) { e.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, host.GenMode) })
		}
	})
}

// sysctls of net.ipv6.conf that a container may be given, by their DEVCONF_n (linux/ipv6.h); netlink does not take them.
var names6 = map[int]string{
	0: "forwarding", 1: "hop_limit", 3: "accept_ra", 4: "accept_redirects", 5: "autoconf", 6: "dad_transmits",
	7: "router_solicitations", 10: "use_tempaddr", 15: "max_addresses", 17: "accept_ra_defrtr", 18: "accept_ra_pinfo",
	19: "accept_ra_rtr_pref", 22: "proxy_ndp", 24: "accept_source_route", 26: "disable_ipv6", 27: "accept_dad",
	29: "ndisc_notify", 33: "accept_ra_from_local", 35: "accept_ra_mtu", 37: "use_oif_addrs_only",
	39: "ignore_routes_with_linkdown", 42: "keep_addr_on_down",
}

func sysctls6(host, guest *Interface) []step {
	var out []step
	for _, i := range slices.Sorted(maps.Keys(names6)) {
		if i >= len(host.IPv6) || i >= len(guest.IPv6) || host.IPv6[i] == guest.IPv6[i] {
			continue
		}
		out = append(out, sysctl6(host.Name, names6[i], host.IPv6[i]))
	}
	return out
}

// sysctl6 sets one that a guest's kernel need not have.
func sysctl6(name, sysctl string, value uint32) step {
	path := "ipv6/conf/" + name + "/" + sysctl
	return step{Path: path, Value: fmt.Sprint(int32(value)), What: path, Fine: []unix.Errno{unix.ENOENT}}
}

// devconfAcceptDAD is the index of accept_dad in names6.
const devconfAcceptDAD = 27

// withoutDAD encloses steps, which give an interface addresses: the guest need not look for duplicates of what an engine has given
// out, and must not wait for that.
func withoutDAD(i *Interface, steps []step) []step {
	if len(i.IPv6) <= devconfAcceptDAD || i.IPv6[devconfAcceptDAD] == 0 {
		return steps
	}
	name := names6[devconfAcceptDAD]
	return slices.Concat([]step{sysctl6(i.Name, name, 0)}, steps, []step{sysctl6(i.Name, name, i.IPv6[devconfAcceptDAD])})
}

// upStep switches a guest's interface on or off.
func upStep(name string, guest int32, up bool) step {
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP
	}
	return step{Request: encode(unix.RTM_NEWLINK, 0, ifInfo(guest, flags, unix.IFF_UP)), What: "interface " + name}
}

// changes are the steps from one list of objects to another. Those of interfaces that the guest does not have are left out. Addresses
// come first: the caller switches interfaces on after them.
func changes(from, to []object, where indices) (addresses, others []step) {
	old, now := map[object]bool{}, map[object]bool{}
	for _, o := range from {
		old[o] = true
	}
	for _, o := range to {
		now[o] = true
	}
	add := func(o object, s step) {
		if o.kind == address {
			addresses = append(addresses, s)
		} else {
			others = append(others, s)
		}
	}
	for _, o := range from {
		if data, ok := o.in(where); ok && !now[o] {
			add(o, step{
				Request: encode(o.kind.remove(), 0, data), What: "remove " + o.String(), object: &o,
				Fine: []unix.Errno{unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL, unix.ENODEV},
			})
		}
	}
	first := before(to, old)
	for _, o := range to {
		if data, ok := o.in(where); ok && !old[o] && !first[o] {
			add(o, step{Request: encode(uint16(o.kind), o.flags(), data), What: o.String(), object: &o, Fine: []unix.Errno{unix.EEXIST}})
		}
	}
	// The last of these becomes the first.
	for _, o := range slices.Backward(to) {
		if data, ok := o.in(where); ok && first[o] {
			add(o, step{Request: encode(uint16(o.kind), netlink.Create, data), What: o.String(), object: &o, Fine: []unix.Errno{unix.EEXIST}})
		}
	}
	return addresses, others
}

// before tells which new routes the kernel looks at before old ones: of several IPv4 routes to one destination with one metric it takes the
// first, and a route goes before them all if it is not made to follow.
func before(to []object, old map[object]bool) map[object]bool {
	out, follow := map[object]bool{}, map[string]bool{}
	for _, o := range slices.Backward(to) {
		if o.kind != route || o.data[0] != unix.AF_INET {
			continue
		}
		if place := o.place(); old[o] {
			follow[place] = true
		} else if follow[place] {
			out[o] = true
		}
	}
	return out
}

// place is what the kernel finds routes by: table, destination, type of service and metric.
func (o object) place() string {
	d, err := netlink.NewAttributeDecoder([]byte(o.data[rtMsgLen:]))
	if err != nil {
		return ""
	}
	var to, metric, table []byte
	for d.Next() {
		switch d.Type() {
		case unix.RTA_DST:
			to = slices.Clone(d.Bytes())
		case unix.RTA_PRIORITY:
			metric = slices.Clone(d.Bytes())
		case unix.RTA_TABLE:
			table = slices.Clone(d.Bytes())
		}
	}
	return fmt.Sprintf("%x %x %x %x", o.data[:rtProtocol], to, metric, table)
}

// flags are those with which an object is made. Several routes may have one destination.
func (o object) flags() netlink.HeaderFlags {
	switch o.kind {
	case route:
		return netlink.Create | netlink.Append
	case rule:
		return netlink.Create | netlink.Excl
	}
	return create
}

// in returns the message with the guest's indices in place of the namespace's.
func (o object) in(where indices) ([]byte, bool) {
	b := []byte(o.data)
	at := func(p []byte) bool {
		index, ok := where[int32(binary.NativeEndian.Uint32(p))]
		binary.NativeEndian.PutUint32(p, uint32(index))
		return ok
	}
	switch o.kind {
	case address:
		return b, at(b[ifAddrIndex:])
	case neighbour:
		return b, at(b[ndIndex:])
	case route:
		return routeIn(b, at)
	}
	return b, true // rules name interfaces
}

// routeIn puts the guest's indices into a route's attributes.
func routeIn(b []byte, at func([]byte) bool) ([]byte, bool) {
	ok := true
	kept := filter(b[rtMsgLen:], func(d *netlink.AttributeDecoder, out *attributeEncoder) {
		p := slices.Clone(d.Bytes())
		switch d.Type() {
		case unix.RTA_OIF, unix.RTA_IIF:
			ok = ok && len(p) == 4 && at(p)
		case unix.RTA_MULTIPATH:
			ok = ok && hopsIn(p, at)
		}
		out.Bytes(d.TypeFlags()|d.Type(), p)
	})
	return append(b[:rtMsgLen:rtMsgLen], kept...), ok && kept != nil
}

// hopsIn does so in a list of struct rtnexthop.
func hopsIn(p []byte, at func([]byte) bool) bool {
	for len(p) > 0 {
		if len(p) < unix.SizeofRtNexthop {
			return false
		}
		n := int(binary.NativeEndian.Uint16(p))
		if n < unix.SizeofRtNexthop || n > len(p) || !at(p[4:]) {
			return false
		}
		p[2] &= unix.RTNH_F_ONLINK // the rest is how it is now
		p = p[min((n+3)&^3, len(p)):]
	}
	return true
}

// encode makes a request's bytes.
func encode(kind uint16, flags netlink.HeaderFlags, data []byte) []byte {
	b, err := request{kind: kind, flags: flags, data: data}.message().MarshalBinary()
	if err != nil {
		panic("network: " + err.Error())
	}
	return b
}
