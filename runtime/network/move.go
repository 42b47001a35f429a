package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Device is an interface that is to be moved to another namespace, and what it is to be called there.
type Device struct{ Name, NewName string }

// Move takes interfaces from the calling thread's network namespace to another one, with their addresses, and switches them on there
// (runtime-spec, config-linux.md: Network Devices). None is moved when one of them is not there, or is none that a guest could have.
func Move(devices []Device, to *os.File) error {
	here, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(to.Fd())})
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	there := conn{c}
	defer there.Close()
	all, err := here.links()
	if err != nil {
		return err
	}
	links := make([]Interface, len(devices))
	for n, d := range devices {
		i := slices.IndexFunc(all, func(i Interface) bool { return i.Name == d.Name })
		switch {
		case i < 0:
			return fmt.Errorf("%s: there is no such interface", d.Name)
		case all[i].Type != unix.ARPHRD_ETHER || len(all[i].MAC) != 6:
			return fmt.Errorf("%s: it carries no Ethernet frames: a micro-VM can only have interfaces that do", d.Name)
		}
		links[n] = all[i]
	}
	for n, d := range devices {
		if err := move(here, there, &links[n], d.NewName, to); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return nil
}

func move(here, there conn, i *Interface, name string, to *os.File) error {
	addresses, err := here.keptAddresses(i.Index) // which it loses when it is switched off
	if err != nil {
		return err
	}
	change := attributes(func(e *attributeEncoder) {
		e.String(unix.IFLA_IFNAME, name) // in the same request: the name may be taken here
		e.Uint32(unix.IFLA_NET_NS_FD, uint32(to.Fd()))
	})
	err = here.execute(
		request{unix.RTM_NEWLINK, 0, ifInfo(i.Index, 0, unix.IFF_UP), "switch off"},
		request{unix.RTM_NEWLINK, 0, append(ifInfo(i.Index, 0, 0), change...), "move to the container's namespace as " + name},
	)
	if err != nil {
		return err
	}
	all, err := there.links()
	if err != nil {
		return err
	}
	n := slices.IndexFunc(all, func(i Interface) bool { return i.Name == name })
	if n < 0 {
		return errors.New("it has gone")
	}
	for _, a := range addresses {
		binary.NativeEndian.PutUint32(a[ifAddrIndex:], uint32(all[n].Index))
		if err := there.execute(request{unix.RTM_NEWADDR, create, a, "restore an address"}); err != nil {
			return err
		}
	}
	return there.execute(request{unix.RTM_NEWLINK, 0, ifInfo(all[n].Index, unix.IFF_UP, unix.IFF_UP), "switch on"})
}

// keptAddresses are those of an interface that it takes along: somebody gave it to them for good, and they mean something elsewhere.
func (c conn) keptAddresses(index int32) (out [][]byte, err error) {
	messages, err := c.dump(unix.RTM_GETADDR, make([]byte, ifAddrLen))
	if err != nil {
		return nil, fmt.Errorf("read its addresses: %w", plain(err))
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < ifAddrLen || int32(binary.NativeEndian.Uint32(m.Data[ifAddrIndex:])) != index ||
			m.Data[ifAddrFlags]&unix.IFA_F_PERMANENT == 0 || m.Data[ifAddrScope] != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		data, ok := addressObject(m.Data)
		if !ok {
			continue
		}
		// A label begins with the name that it had.
		rest := filter(data[ifAddrLen:], func(d *netlink.AttributeDecoder, e *attributeEncoder) {
			if d.Type() != unix.IFA_LABEL {
				e.Bytes(d.TypeFlags()|d.Type(), d.Bytes())
			}
		})
		out = append(out, append(slices.Clone(data[:ifAddrLen]), rest...))
	}
	return out, nil
}
