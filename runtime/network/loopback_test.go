package network

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// TestListens looks for sockets in what the kernel shows of them.
func TestListens(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		must(t, c.execute(up(loopback, 1)))
		check := func(want bool) {
			t.Helper()
			sockets, err := os.ReadFile("/proc/thread-self/net/udp")
			must(t, err)
			if got := listens(sockets, Resolver); got != want {
				t.Errorf("got %v, want %v:\n%s", got, want, sockets)
			}
		}
		check(false)
		for _, a := range []string{"127.0.0.1:0", "11.0.0.127:53"} {
			if l, err := net.ListenPacket("udp4", a); err == nil {
				defer l.Close()
			}
		}
		check(false)
		l, err := net.ListenPacket("udp4", netip.AddrPortFrom(Resolver, 0).String())
		must(t, err)
		defer l.Close()
		check(true)
	})
}

// TestSecondMonitor has two work in one namespace: the second is told why it cannot.
func TestSecondMonitor(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		c.veth(t, "eth0", "far0")
		i := c.link(t, "eth0")
		r, err := newRedirector()
		must(t, err)
		_, name := openTAP(t)
		must(t, r.Redirect(&i, name))
		second, err := newRedirector()
		must(t, err)
		if err := second.Redirect(&i, name); err == nil || !strings.Contains(err.Error(), "another micro-VM's") {
			t.Errorf("got %v", err)
		}
	})
}
