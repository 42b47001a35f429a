package network

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestGive gives a guest an interface that the namespace does not have, with and without IPv6.
func TestGive(t *testing.T) {
	f := Fixed{
		Interface: Interface{Name: "eth7", MAC: net.HardwareAddr{2, 0, 0, 0, 7, 7}, MTU: 1400, QueueLen: 77},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00::15/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::2")},
	}
	for _, v6 := range []bool{true, false} {
		k := newKernel(t)
		if !v6 {
			k.do(func(conn) { sysctl(t, "ipv6/conf/default/disable_ipv6", "1") })
		}
		inNamespace(t, func(t *testing.T) {
			m := NewManager(Config{Guest: k, Insert: k.insert, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
			must(t, m.Give(f))
		})
		var got *state
		k.do(func(c conn) {
			var err error
			got, err = c.read()
			must(t, err)
		})
		if len(got.Interfaces) != 1 {
			t.Fatalf("%d interfaces", len(got.Interfaces))
		}
		i := got.Interfaces[0]
		if i.Name != f.Name || !slices.Equal(i.MAC, f.MAC) || i.MTU != f.MTU || i.QueueLen != f.QueueLen || !i.Up() || i.IPv6[devconfAcceptRA] != 0 {
			t.Errorf("interface %+v", i)
		}
		var objects []string
		for _, o := range got.Objects {
			if !strings.HasPrefix(o.String(), "address fe80:") {
				objects = append(objects, o.String())
			}
		}
		want := []string{"address 10.0.2.15/24", "address fd00::15/64", "route default via 10.0.2.2", "route default via fd00::2"}
		if !v6 {
			want = []string{want[0], want[2]}
		}
		if slices.Sort(objects); !slices.Equal(objects, want) {
			t.Errorf("IPv6 %v: %q, want %q", v6, objects, want)
		}
	}
}

// TestGiveNotEmpty: a namespace that has an interface is its own network.
func TestGiveNotEmpty(t *testing.T) {
	k := newKernel(t)
	inNamespace(t, func(t *testing.T) {
		rtnl(t).veth(t, "eth0", "far0")
		m := NewManager(Config{Guest: k, Insert: k.insert, Logger: slog.New(slog.DiscardHandler)})
		if err := m.Give(Fixed{}); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), "eth0") && !strings.Contains(err.Error(), "far0") {
			t.Errorf("%v", err)
		}
	})
	if len(k.cards) != 0 || len(k.new) != 0 {
		t.Error("the guest has got a card")
	}
}
