package network

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// otherNamespace makes a network namespace that ends with its descriptor.
func otherNamespace(t *testing.T) *os.File {
	t.Helper()
	file := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // never unlocked
		defer close(file)
		must(t, unix.Unshare(unix.CLONE_NEWNET))
		f, err := os.Open("/proc/thread-self/ns/net")
		must(t, err)
		file <- f
	}()
	f := <-file
	if f == nil {
		runtime.Goexit()
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// give adds an address to an interface.
func (c conn) give(t *testing.T, index int32, scope byte, label string, address ...byte) {
	t.Helper()
	family, bits := byte(unix.AF_INET), byte(24)
	if len(address) == 16 {
		family, bits = unix.AF_INET6, 64
	}
	data := binary.NativeEndian.AppendUint32([]byte{family, bits, 0, scope}, uint32(index))
	data = append(data, attributes(func(e *attributeEncoder) {
		e.Bytes(unix.IFA_LOCAL, address)
		e.Bytes(unix.IFA_ADDRESS, address)
		if label != "" {
			e.String(unix.IFA_LABEL, label)
		}
	})...)
	must(t, c.execute(request{unix.RTM_NEWADDR, netlink.Create, data, "address"}))
}

// addresses are those of an interface, but for the kernel's own link-local one.
func (c conn) addresses(t *testing.T, index int32) (out []string) {
	t.Helper()
	messages, err := c.dump(unix.RTM_GETADDR, make([]byte, ifAddrLen))
	must(t, err)
	for _, m := range messages {
		if int32(binary.NativeEndian.Uint32(m.Data[ifAddrIndex:])) != index || m.Data[ifAddrScope] == unix.RT_SCOPE_LINK && m.Data[0] == unix.AF_INET6 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[ifAddrLen:])
		must(t, err)
		for d.Next() {
			if d.Type() == unix.IFA_ADDRESS {
				out = append(out, string(d.Bytes()))
			}
		}
	}
	return out
}

// TestMove moves an interface under a new name, and looks for its addresses, MTU and state; then it asks for what cannot be.
func TestMove(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		c.veth(t, "dev0", "peer")
		dev := c.link(t, "dev0")
		change := attributes(func(e *attributeEncoder) { e.Uint32(unix.IFLA_MTU, 1333) })
		must(t, c.execute(request{unix.RTM_NEWLINK, 0, append(ifInfo(dev.Index, 0, 0), change...), "MTU"}))
		v6 := append([]byte{0xfd, 0x88}, make([]byte, 14)...)
		v6[15] = 2
		c.give(t, dev.Index, unix.RT_SCOPE_UNIVERSE, "dev0:a", 10, 1, 0, 2)
		c.give(t, dev.Index, unix.RT_SCOPE_LINK, "", 10, 2, 0, 2)
		c.give(t, dev.Index, unix.RT_SCOPE_UNIVERSE, "", v6...)
		to := otherNamespace(t)
		if err := Move([]Device{{"dev0", "net0"}, {"none", "none"}}, to); err == nil || err.Error() != "none: there is no such interface" {
			t.Errorf("an interface that is not there: %v", err)
		}
		if err := Move([]Device{{"dev0", "net0"}, {"lo", "lo1"}}, to); err == nil || !strings.Contains(err.Error(), "lo: it carries no Ethernet frames") {
			t.Errorf("loopback: %v", err)
		}
		c.link(t, "dev0") // is still there
		must(t, Move([]Device{{"dev0", "net0"}}, to))
		n, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(to.Fd())})
		must(t, err)
		there := conn{n}
		defer there.Close()
		moved := there.link(t, "net0")
		if moved.MTU != 1333 || !moved.Up() || moved.MAC.String() != dev.MAC.String() {
			t.Errorf("in the other namespace: %+v, here it was %+v", moved, dev)
		}
		if got := there.addresses(t, moved.Index); len(got) != 2 || got[0] != "\x0a\x01\x00\x02" || got[1] != string(v6) {
			t.Errorf("its addresses: %q", got)
		}
		if err := Move([]Device{{"peer", "net0"}}, to); !errors.Is(err, unix.EEXIST) {
			t.Errorf("a name that is taken: %v", err)
		}
	})
}
