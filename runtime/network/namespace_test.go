package network

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// inNamespace runs a test on a thread with a network namespace of its own, which ends with it.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	need.Root(t)
	need.TAP(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		must(t, unix.Unshare(unix.CLONE_NEWNET))
		f(t)
	}()
	<-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

func rtnl(t *testing.T) conn {
	t.Helper()
	c, err := dial(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// veth makes a pair of interfaces.
func (c conn) veth(t *testing.T, name, peer string) {
	t.Helper()
	must(t, c.execute(request{unix.RTM_NEWLINK, netlink.Create | netlink.Excl, append(ifInfo(0, 0, 0), attributes(func(e *attributeEncoder) {
		e.String(unix.IFLA_IFNAME, name)
		nested(e, unix.IFLA_LINKINFO, func(e *attributeEncoder) {
			e.String(unix.IFLA_INFO_KIND, "veth")
			nested(e, unix.IFLA_INFO_DATA, func(e *attributeEncoder) {
				e.Do(1, func() ([]byte, error) { // VETH_INFO_PEER
					return append(ifInfo(0, 0, 0), attributes(func(e *attributeEncoder) { e.String(unix.IFLA_IFNAME, peer) })...), nil
				})
			})
		})
	})...), "veth"}))
	for _, n := range []string{name, peer} {
		must(t, c.execute(request{unix.RTM_NEWLINK, 0, ifInfo(c.link(t, n).Index, unix.IFF_UP, unix.IFF_UP), "up"}))
	}
}

func (c conn) link(t *testing.T, name string) Interface {
	t.Helper()
	all, err := c.links()
	must(t, err)
	for _, l := range all {
		if l.Name == name {
			return l
		}
	}
	t.Errorf("no interface %s", name)
	runtime.Goexit()
	return Interface{}
}

// openTAP makes a TAP and returns its file and its name.
func openTAP(t *testing.T) (*os.File, string) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	r, err := unix.NewIfreq(TAPName)
	must(t, err)
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { f.Close() })
	return f, r.Name()
}

// packetSocket sends and receives the frames of an interface.
func packetSocket(t *testing.T, index int32) int {
	t.Helper()
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(index)}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func frame(dst, src net.HardwareAddr, text string) []byte {
	b := append(append([]byte{}, dst...), src...)
	b = binary.BigEndian.AppendUint16(b, 0x88b5) // for experiments
	return append(b, text...)
}

// contains reads frames until one ends in text.
func contains(read func([]byte) (int, error), text string) error {
	b := make([]byte, 2048)
	for {
		n, err := read(b)
		if err != nil {
			return err
		}
		if bytes.HasSuffix(b[:n], []byte(text)) {
			return nil
		}
	}
}

// TestRedirect sends frames both ways, and looks for what is left when the redirection ends.
func TestRedirect(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		c.veth(t, "eth0", "peer")
		eth0, peer := c.link(t, "eth0"), c.link(t, "peer")
		eth0.MTU = 1400
		tap, name := openTAP(t)
		r, err := newRedirector()
		must(t, err)
		must(t, r.Redirect(&eth0, name))
		if l := c.link(t, name); l.MTU != 1400 || !l.Up() || l.Flags&unix.IFF_NOARP == 0 {
			t.Errorf("the TAP: MTU %d, flags %#x", l.MTU, l.Flags)
		}
		outside := packetSocket(t, peer.Index)
		_, err = unix.Write(outside, frame(eth0.MAC, peer.MAC, "to the guest"))
		must(t, err)
		must(t, tap.SetReadDeadline(time.Now().Add(5*time.Second)))
		must(t, contains(tap.Read, "to the guest"))
		_, err = tap.Write(frame(peer.MAC, eth0.MAC, "from the guest"))
		must(t, err)
		must(t, contains(func(b []byte) (int, error) { return unix.Read(outside, b) }, "from the guest"))
		must(t, r.Close())
		gone(t)
	})
}

// gone wants no table in the namespace.
func gone(t *testing.T) {
	t.Helper()
	c, err := dial(unix.NETLINK_NETFILTER)
	must(t, err)
	defer c.Close()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m := nfMessage(unix.NFT_MSG_GETTABLE, 0, netlink.Dump, nil)
		left, err := c.Execute(m)
		must(t, err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d tables are left", len(left))
			return
		}
	}
}
