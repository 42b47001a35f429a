package network

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMirrorDatagrams sends datagrams to ports where nobody listens: they arrive where the rules say, and the kernel tells where they were to go.
func TestMirrorDatagrams(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		must(t, rtnl(t).execute(up(loopback, 1)))
		r, err := newRedirector()
		must(t, err)
		defer r.Close()
		listen := func(address string) (*net.UDPConn, Mirror) {
			l, err := net.ListenPacket("udp", address)
			must(t, err)
			t.Cleanup(func() { l.Close() })
			own := l.LocalAddr().(*net.UDPAddr)
			return l.(*net.UDPConn), Mirror{unix.IPPROTO_UDP, own.IP.To4() == nil, uint16(own.Port)}
		}
		l4, m4 := listen("127.0.0.1:0")
		l6, m6 := listen("[::1]:0")
		must(t, r.Mirror([]Mirror{m4, m6}))
		for _, tt := range []struct {
			l  *net.UDPConn
			to string
		}{{l4, "127.0.0.1:53"}, {l4, "127.0.0.1:123"}, {l4, "127.0.0.2:53"}, {l6, "[::1]:53"}} {
			want := netip.MustParseAddrPort(tt.to)
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(want))
			must(t, err)
			defer c.Close()
			_, err = c.Write([]byte("question"))
			must(t, err)
			b := make([]byte, 100)
			_ = tt.l.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, from, err := tt.l.ReadFromUDPAddrPort(b)
			must(t, err)
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			own := tt.l.LocalAddr().(*net.UDPAddr).AddrPort()
			own = netip.AddrPortFrom(own.Addr().Unmap(), own.Port())
			if to, err := OriginalTarget(from, own); err != nil || to != want {
				t.Errorf("%s: %v, %v", tt.to, to, err)
			}
			_, err = tt.l.WriteToUDPAddrPort(b[:n], from)
			must(t, err)
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := c.Read(b); err != nil || string(b[:n]) != "question" { // from where it was sent, as the client is connected
				t.Errorf("%s: answer %q, %v", tt.to, b[:n], err)
			}
		}
		if to, err := OriginalTarget(netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("127.0.0.1:10")); err == nil {
			t.Errorf("what was never sent was to go to %v", to)
		}
	})
}
