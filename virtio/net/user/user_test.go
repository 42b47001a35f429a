package user

import (
	"bufio"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	home, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for text, want := range map[string]Publish{
		"8080:80":                {Protocol: "tcp", HostPort: 8080, GuestPort: 80},
		"8080:80/tcp":            {Protocol: "tcp", HostPort: 8080, GuestPort: 80},
		"53:53/udp":              {Protocol: "udp", HostPort: 53, GuestPort: 53},
		"udp:53:5353":            {Protocol: "udp", HostPort: 53, GuestPort: 5353},
		"127.0.0.1:8080:80":      {Protocol: "tcp", Host: home, HostPort: 8080, GuestPort: 80},
		"tcp:127.0.0.1:65535:1":  {Protocol: "tcp", Host: home, HostPort: 65535, GuestPort: 1},
		"[::1]:8080:80/udp":      {Protocol: "udp", Host: six, HostPort: 8080, GuestPort: 80},
		"udp:127.0.0.1:8080:80":  {Protocol: "udp", Host: home, HostPort: 8080, GuestPort: 80},
		"tcp:[::1]:8080:80":      {Protocol: "tcp", Host: six, HostPort: 8080, GuestPort: 80},
		"127.0.0.1:5353:53/udp":  {Protocol: "udp", Host: home, HostPort: 5353, GuestPort: 53},
		"[::ffff:1.2.3.4]:80:80": {Protocol: "tcp", Host: netip.MustParseAddr("::ffff:1.2.3.4"), HostPort: 80, GuestPort: 80},
		"8000-8010:8000-8010":    {Protocol: "tcp", HostPort: 8000, GuestPort: 8000, More: 10},
		"[::1]:1-9:11-19/udp":    {Protocol: "udp", Host: six, HostPort: 1, GuestPort: 11, More: 8},
		"1-65535:1-65535":        {Protocol: "tcp", HostPort: 1, GuestPort: 1, More: 65534},
	} {
		got, err := ParsePublish(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
		if again, err := ParsePublish(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s it is %+v, %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "write publish=", "80": "write publish=", "a:80": "is not a port", "80:": "is not a port", ":80": "is not a port", "0:80": "is not a port", "80:65536": "is not a port",
		"8000-8010:80": "ports: 11 of the host's for 1 of the guest's", "80:80-81": "ports: 1 of the host's for 2", "81-80:81-80": "ends before it begins", "80-:80": "is not a port", "1-2-3:1-3": "is not a port",
		"80:80/sctp": `"sctp" is no protocol`, "80:80/udp/tcp": `"udp" is no protocol`, "udp:80:80/tcp": "is not an address",
		"::1:80:80": "is not an address", "[127.0.0.1]:80:80": "is not an address", "[::1:80:80": "is not an address", "localhost:80:80": "is not an address",
		"udp:tcp:80:80": "is not an address",
	} {
		if p, err := ParsePublish(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", text, p, err, want)
		}
	}
}

func TestEach(t *testing.T) {
	p, err := ParsePublish("127.0.0.1:65533-65535:1-3/udp")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for one := range p.Each() {
		got = append(got, one.String()+" at "+one.Listen())
	}
	want := []string{"127.0.0.1:65533:1/udp at 127.0.0.1:65533", "127.0.0.1:65534:2/udp at 127.0.0.1:65534", "127.0.0.1:65535:3/udp at 127.0.0.1:65535"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParseNetwork(t *testing.T) {
	if got, err := ParseNetwork("user,publish=1:2,publish=3:4/udp"); err != nil || len(got) != 2 || got[1].Protocol != "udp" {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"": `"" is no network`, "tap=x": "is no network", "none": "is no network", "user,": "write publish=", "user,mac=02:00:00:00:00:01": "write publish=", "user,publish=x": "write publish=",
	} {
		if _, err := ParseNetwork(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestMessage: what one side writes the other one reads.
func TestMessage(t *testing.T) {
	p, err := ParsePublish("[::1]:80:80/udp")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Publish: []Publish{p, {Protocol: "tcp", HostPort: 1, GuestPort: 2}}, Nameservers: []netip.Addr{DNS, netip.MustParseAddr("fe80::1%eth0")}, Search: []string{"a.test", "b.test"}}
	var got Config
	if err := got.Unmarshal(c.Marshal()); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v, %v, want %+v", got, err, c)
	}
	for _, bad := range []string{"publish=x\n", "nameserver=x\n"} {
		if err := got.Unmarshal([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestResolvConf(t *testing.T) {
	servers, search := parseResolvConf(bufio.NewScanner(strings.NewReader(`# a comment
; another
nameserver 192.0.2.1
domain old.test
nameserver  fe80::1%eth0
nameserver nonsense
search a.test b.test c d e f g
options edns0
nameserver 192.0.2.3
nameserver 192.0.2.4
`)))
	if len(servers) != 3 || servers[2].String() != "192.0.2.3" || strings.Join(search, " ") != "a.test b.test c d e f" {
		t.Errorf("%v, %v", servers, search)
	}
	if servers, search := ReadResolvConf("/does/not/exist"); len(servers) != 1 || servers[0].String() != "127.0.0.1" || search != nil {
		t.Errorf("without a file: %v, %v", servers, search)
	}
	if got := ResolvConf([]string{"a", "b"}); got != "nameserver 10.0.2.3\nsearch a b\n" {
		t.Errorf("%q", got)
	}
}
