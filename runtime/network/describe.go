package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// String names an object as ip(8) does, as far as it takes to know which one is meant.
func (o object) String() string {
	header := map[kind]int{address: ifAddrLen, route: rtMsgLen, neighbour: ndMsgLen, rule: ruleHdrLen}[o.kind]
	d, err := netlink.NewAttributeDecoder([]byte(o.data[header:]))
	if err != nil {
		return "an object that does not decode"
	}
	values := map[uint16][]byte{}
	for d.Next() {
		values[d.Type()] = slices.Clone(d.Bytes())
	}
	length := o.data[1]
	switch o.kind {
	case address:
		a := values[unix.IFA_LOCAL]
		if a == nil {
			a = values[unix.IFA_ADDRESS]
		}
		return fmt.Sprintf("address %s/%d", ip(a), length)
	case neighbour:
		return "neighbour " + ip(values[unix.NDA_DST])
	case rule:
		return fmt.Sprintf("rule of priority %d", words(values[unix.FRA_PRIORITY]))
	}
	text := []string{"route", "default"}
	if length > 0 {
		text[1] = fmt.Sprintf("%s/%d", ip(values[unix.RTA_DST]), length)
	}
	if via := values[unix.RTA_GATEWAY]; via != nil {
		text = append(text, "via", ip(via))
	}
	return strings.Join(text, " ")
}

func ip(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return fmt.Sprintf("% x", b)
	}
	return a.String()
}
