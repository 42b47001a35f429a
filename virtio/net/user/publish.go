package user

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"strings"
)

// Publish is a port of the host that leads to one of the guest's, or a range of such.
type Publish struct {
	Protocol  string     // tcp or udp
	Host      netip.Addr // where the host listens; the zero Addr is every address
	HostPort  uint16
	GuestPort uint16
	More      uint16 // how many ports behind these two are published likewise
}

// errPublish says how a port is written.
var errPublish = errors.New("write publish=[HOSTIP:]HOSTPORT:GUESTPORT[/udp], such as 8080:80, 8000-8009:80-89 or 127.0.0.1:5353:53/udp, and an IPv6 address in brackets")

// ParsePublish reads a port as podman and docker write it: [HOSTIP:]HOSTPORT:GUESTPORT[/PROTOCOL]. Both ports may be ranges of the same
// length, FIRST-LAST. The protocol may stand in front as well, with a colon behind.
func ParsePublish(text string) (Publish, error) {
	p, err := parsePublish(text)
	if err != nil {
		return Publish{}, fmt.Errorf("publish=%s: %w", text, err)
	}
	return p, nil
}

func parsePublish(text string) (p Publish, err error) {
	rest := text
	for _, protocol := range []string{"tcp", "udp"} {
		prefixed, hasPrefix := strings.CutPrefix(rest, protocol+":")
		suffixed, hasSuffix := strings.CutSuffix(rest, "/"+protocol)
		switch {
		case p.Protocol != "":
		case hasPrefix:
			p.Protocol, rest = protocol, prefixed
		case hasSuffix:
			p.Protocol, rest = protocol, suffixed
		}
	}
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return p, fmt.Errorf("%q is no protocol that can be published: tcp and udp are", rest[i+1:])
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return p, errPublish
	}
	host, guest := rest[:i], rest[i+1:]
	if i = strings.LastIndexByte(host, ':'); i >= 0 {
		if p.Host, err = parseHost(host[:i]); err != nil {
			return p, err
		}
		host = host[i+1:]
	}
	var guestMore uint16
	if p.HostPort, p.More, err = parsePorts(host); err != nil {
		return p, err
	}
	if p.GuestPort, guestMore, err = parsePorts(guest); err != nil {
		return p, err
	}
	if p.More != guestMore {
		return p, fmt.Errorf("ports: %d of the host's for %d of the guest's, as many are needed", int(p.More)+1, int(guestMore)+1)
	}
	return p, nil
}

func parseHost(text string) (netip.Addr, error) {
	bare, bracketed := strings.CutPrefix(text, "[")
	bare, closed := strings.CutSuffix(bare, "]")
	a, err := netip.ParseAddr(bare)
	if err != nil || bracketed != closed || bracketed != a.Is6() {
		return a, fmt.Errorf("%q is not an address of the host's: %w", text, errPublish)
	}
	return a, nil
}

// parsePorts reads a port, or the first of a range and how many more there are.
func parsePorts(text string) (first, more uint16, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if first, err = parsePort(from); err != nil || !ranged {
		return first, 0, err
	}
	last, err := parsePort(to)
	if err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("%q is no range of ports: it ends before it begins", text)
	}
	return first, last - first, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port between 1 and 65535: %w", text, errPublish)
	}
	return uint16(n), nil
}

// String is the form that ParsePublish reads.
func (p Publish) String() string {
	host := ""
	if p.Host.IsValid() {
		host, _ = strings.CutSuffix(netip.AddrPortFrom(p.Host, 0).String(), "0")
	}
	return host + p.ports(p.HostPort) + ":" + p.ports(p.GuestPort) + "/" + p.Protocol
}

// ports writes a port, or the range that begins with it.
func (p Publish) ports(first uint16) string {
	if p.More == 0 {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, int(first)+int(p.More))
}

// Each are the single ports of a range, or the one that it is.
func (p Publish) Each() iter.Seq[Publish] {
	return func(yield func(Publish) bool) {
		for i := range int(p.More) + 1 {
			one := Publish{Protocol: p.Protocol, Host: p.Host, HostPort: p.HostPort + uint16(i), GuestPort: p.GuestPort + uint16(i)}
			if !yield(one) {
				return
			}
		}
	}
}

// Listen is where the host listens for a single port, as package net writes it.
func (p Publish) Listen() string {
	if !p.Host.IsValid() {
		return fmt.Sprintf(":%d", p.HostPort)
	}
	return netip.AddrPortFrom(p.Host, p.HostPort).String()
}

// ParseNetwork reads a network without options of a device: user[,publish=...]...
func ParseNetwork(text string) ([]Publish, error) {
	kind, rest, more := strings.Cut(text, ",")
	if kind != "user" {
		return nil, fmt.Errorf("%q is no network: write user, and ,publish=HOSTPORT:GUESTPORT for each port", kind)
	}
	var list []Publish
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		value, ok := strings.CutPrefix(option, "publish=")
		if !ok {
			return nil, fmt.Errorf("%q: %w", option, errPublish)
		}
		p, err := ParsePublish(value)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
