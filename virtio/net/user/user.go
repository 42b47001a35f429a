// Package user is a network device's link to a network stack in user mode, which needs no privileges: govmm-net, a process of its own
// that the program carries along (package netstack). What the guest sends becomes ordinary connections of that process, which come
// from the network namespace in which it is started.
//
// It is a process because it must cost nothing where it is not used: linked into govmm-run, its packages cost each process of a start
// 1.3 million instructions. And a hostile guest's packets are parsed where there is little else to be had.
package user

import (
	"bufio"
	"net/netip"
	"os"
	"strings"
)

// The addresses on the guest's network. Those of IPv4 are QEMU's.
var (
	Guest   = netip.MustParsePrefix("10.0.2.15/24")
	Gateway = netip.MustParseAddr("10.0.2.2")
	DNS     = netip.MustParseAddr("10.0.2.3")

	Guest6   = netip.MustParsePrefix("fd00::15/64")
	Gateway6 = netip.MustParseAddr("fd00::2")
	DNS6     = netip.MustParseAddr("fd00::3")
)

// MTU is that of the guest's network, in bytes.
const MTU = 1500

// Config is what the network is told, in one message, before any frame.
type Config struct {
	Publish []Publish
	// Nameservers answer what the guest asks at DNS.
	Nameservers []netip.Addr
	// Search are the domains in which the guest looks for names.
	Search []string
}

// The words of the message, each in a line with its value. No JSON: the process is to be small.
const (
	wordPublish    = "publish="
	wordNameserver = "nameserver="
	wordSearch     = "search="
)

// Marshal is the message.
func (c *Config) Marshal() []byte {
	var b []byte
	for _, p := range c.Publish {
		b = append(append(append(b, wordPublish...), p.String()...), '\n')
	}
	for _, a := range c.Nameservers {
		b = append(append(append(b, wordNameserver...), a.String()...), '\n')
	}
	for _, d := range c.Search {
		b = append(append(append(b, wordSearch...), d...), '\n')
	}
	return b
}

// Unmarshal reads it.
func (c *Config) Unmarshal(message []byte) error {
	for line := range strings.Lines(string(message)) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, wordPublish); ok {
			p, err := ParsePublish(text)
			if err != nil {
				return err
			}
			c.Publish = append(c.Publish, p)
		} else if text, ok := strings.CutPrefix(line, wordNameserver); ok {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return err
			}
			c.Nameservers = append(c.Nameservers, a)
		} else if text, ok := strings.CutPrefix(line, wordSearch); ok {
			c.Search = append(c.Search, text)
		}
	}
	return nil
}

// Ready is what it says to that when it works; anything else is why it does not.
const Ready = "ready"

// OffloadsSize is the size of the message, less than any frame, that says with a number which features the driver has.
const OffloadsSize = 8

// Limits of what is taken from a resolv.conf: glibc's.
const (
	maxNameservers = 3
	maxSearch      = 6
)

// ReadResolvConf takes name servers and search domains from a file like /etc/resolv.conf. Without a server it is the host's loopback that
// answers, as resolv.conf(5) says.
func ReadResolvConf(path string) (servers []netip.Addr, search []string) {
	if f, err := os.Open(path); err == nil {
		defer f.Close()
		servers, search = parseResolvConf(bufio.NewScanner(f))
	}
	if len(servers) == 0 {
		servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return servers, search
}

func parseResolvConf(lines *bufio.Scanner) (servers []netip.Addr, search []string) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) < 2:
		case f[0] == "nameserver" && len(servers) < maxNameservers:
			if a, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, a)
			}
		case f[0] == "search" || f[0] == "domain":
			search = f[1:min(len(f), maxSearch+1)]
		}
	}
	return servers, search
}

// ResolvConf is the file for a guest that is told by a file, and not by DHCP.
func ResolvConf(search []string) string {
	text := "nameserver " + DNS.String() + "\n"
	if len(search) > 0 {
		text += "search " + strings.Join(search, " ") + "\n"
	}
	return text
}
