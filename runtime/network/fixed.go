package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Fixed is an interface of the guest's that no interface of the namespace stands for.
type Fixed struct {
	Interface // name, MAC, MTU and queue length
	Addresses []netip.Prefix
	Gateways  []netip.Addr
}

// indexFixed is the interface's index on the host's side, where there is none: the first behind loopback's.
const indexFixed = loopback + 1

// ErrNotEmpty says that the namespace has interfaces of its own.
var ErrNotEmpty = errors.New("the container's network namespace has an interface already")

// Give gives the guest an interface. The namespace must have none of its own.
func (m *Manager) Give(f Fixed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, err := Read()
	if err == nil {
		err = now.Refused
	}
	if err != nil {
		return err
	}
	if len(now.Interfaces) > 0 {
		return fmt.Errorf("%w: %s", ErrNotEmpty, now.Interfaces[0].Name)
	}
	f.Index = indexFixed
	card, err := m.cfg.Insert(&f.Interface)
	if err != nil {
		return err
	}
	n := &nic{host: f.Interface, card: card}
	m.nics = append(m.nics, n)
	err = m.cfg.Guest.Plug()
	if err == nil {
		err = m.identify()
	}
	if err == nil {
		err = m.configure(f.state(n.guest))
	}
	if err != nil {
		return errors.Join(err, card.Remove())
	}
	return nil
}

// state is what a namespace would hold in which the interface were: what is not said is as the guest's kernel made it. One without IPv6 gets
// none of it.
func (f *Fixed) state(guest Interface) *state {
	i := guest.as(indexFixed)
	i.Name, i.MTU, i.QueueLen = f.Name, f.MTU, f.QueueLen
	i.Flags |= unix.IFF_UP
	i.IPv6 = slices.Clone(guest.IPv6)
	if len(i.IPv6) > devconfAcceptRA {
		i.IPv6[devconfAcceptRA] = 0 // all that a router would say is said
	}
	s := &state{Interfaces: []Interface{i}}
	has := func(a netip.Addr) bool { return a.Is4() || len(i.IPv6) > devconfDisable && i.IPv6[devconfDisable] == 0 }
	for _, a := range f.Addresses {
		if has(a.Addr()) {
			s.Objects = append(s.Objects, addressOf(a))
		}
	}
	for _, a := range f.Gateways {
		if has(a) {
			s.Objects = append(s.Objects, defaultRoute(a))
		}
	}
	return s
}

// Indices in names6.
const (
	devconfAcceptRA = 3
	devconfDisable  = 26
)

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addressOf(p netip.Prefix) object {
	head := make([]byte, ifAddrLen)
	head[0], head[1] = familyOf(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(head[ifAddrIndex:], indexFixed)
	return object{address, string(append(head, attributes(func(e *attributeEncoder) {
		e.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		e.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		e.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	})...))}
}

func defaultRoute(gateway netip.Addr) object {
	head := make([]byte, rtMsgLen)
	head[0], head[rtTable], head[rtProtocol], head[rtType] = familyOf(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RTN_UNICAST
	return object{route, string(append(head, attributes(func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		e.Uint32(unix.RTA_OIF, indexFixed)
	})...))}
}
