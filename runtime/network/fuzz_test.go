package network

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzLinks reads what a hostile guest answers when it is asked for its interfaces.
func FuzzLinks(f *testing.F) {
	link := append(ifInfo(7, unix.IFF_UP, 0), attributes(func(e *attributeEncoder) {
		e.String(unix.IFLA_IFNAME, "eth0")
		e.Bytes(unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1})
		nested(e, unix.IFLA_LINKINFO, func(e *attributeEncoder) { e.String(unix.IFLA_INFO_KIND, "veth") })
		nested(e, unix.IFLA_AF_SPEC, func(e *attributeEncoder) {
			nested(e, unix.AF_INET, func(e *attributeEncoder) { e.Bytes(unix.IFLA_INET_CONF, make([]byte, 132)) })
			nested(e, unix.AF_INET6, func(e *attributeEncoder) { e.Bytes(unix.IFLA_INET6_CONF, make([]byte, 200)) })
		})
	})...)
	one := encode(unix.RTM_NEWLINK, 0, link)
	f.Add(one)
	f.Add(append(one, one...))
	f.Add(one[:len(one)-1])
	f.Add([]byte{})
	host := Interface{Index: 3, Name: "eth0", MAC: []byte{2, 0, 0, 0, 0, 1}, MTU: 1500, IPv4: make([]uint32, 33), IPv6: make([]uint32, 60)}
	f.Fuzz(func(t *testing.T, data []byte) {
		links, err := parseLinks(string(data))
		if err != nil {
			return
		}
		for _, l := range links {
			for _, s := range nameSteps(&host, &l) {
				if len(s.Request) == 0 && s.Path == "" {
					t.Error("an empty step")
				}
			}
		}
	})
}

// FuzzObjects reads the messages of a kernel, which are right, and looks that nothing breaks if they are not.
func FuzzObjects(f *testing.F) {
	f.Add(uint8(0), make([]byte, 40))
	f.Add(uint8(1), append([]byte{2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0}, attributes(func(e *attributeEncoder) {
		e.Bytes(unix.RTA_DST, []byte{10, 0, 0, 0})
		e.Bytes(unix.RTA_MULTIPATH, []byte{8, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0})
		e.Uint32(unix.RTA_OIF, 1)
	})...))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		list := []struct {
			kind kind
			read func([]byte) ([]byte, bool)
		}{{address, addressObject}, {route, routeObject}, {neighbour, neighbourObject}, {rule, ruleObject}}
		k := list[int(which)%len(list)]
		b, ok := k.read(data)
		if !ok {
			return
		}
		o := object{k.kind, string(b)}
		_ = o.String()
		_, _ = changes([]object{o}, nil, newIndices())
		_, _ = changes(nil, []object{o}, newIndices())
		if again, ok := k.read(b); ok && string(again) != string(b) && k.kind != address {
			t.Errorf("what was read reads differently: %q, %q", b, again)
		}
	})
}
