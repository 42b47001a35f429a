package user

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Publish is a port of the host that leads to one of the guest's.
type Publish struct {
	Protocol  string     // tcp or udp
	Host      netip.Addr // where the host listens; the zero Addr is every address
	HostPort  uint16
	GuestPort uint16
}

// errPublish says how a port is written.
var errPublish = errors.New("write publish=[HOSTIP:]HOSTPORT:GUESTPORT[/udp], such as 8080:80 or 127.0.0.1:5353:53/udp, and an IPv6 address in brackets")

// ParsePublish reads a port as podman and docker write it: [HOSTIP:]HOSTPORT:GUESTPORT[/PROTOCOL]. The protocol may stand in front as well,
// with a colon behind.
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
	if p.HostPort, err = parsePort(host); err != nil {
		return p, err
	}
	p.GuestPort, err = parsePort(guest)
	return p, err
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

func parsePort(text string) (uint16, error) {
	if strings.Contains(text, "-") {
		return 0, fmt.Errorf("%q: a range of ports is not possible: publish each", text)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port between 1 and 65535: %w", text, errPublish)
	}
	return uint16(n), nil
}

// String is the form that ParsePublish reads.
func (p Publish) String() string {
	host := p.Listen()
	if !p.Host.IsValid() {
		host = host[1:] // the colon
	}
	return fmt.Sprintf("%s:%d/%s", host, p.GuestPort, p.Protocol)
}

// Listen is where the host listens, as package net writes it.
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
