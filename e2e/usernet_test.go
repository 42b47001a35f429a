package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// What a guest with a network in user mode finds on the host, at an address that is not loopback's, and what it serves itself.
const (
	hostOutside   = "10.77.0.1"
	portUp        = "9000"
	portDown      = "9001"
	portEcho      = "9002"
	portHidden    = "9003" // on the host's loopback
	streamSize    = 16 << 20
	publishedTCP  = "18080:80"
	publishedUDP  = "127.0.0.1:15353:53/udp"
	annotationNet = "io.govmm.network"
)

func stream() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), streamSize) }

func sumOf(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %x", n, h.Sum(nil)[:8])
}

// TestGuestUserNet is what a guest does on such a network.
func TestGuestUserNet(t *testing.T) {
	inGuest(t)
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var d net.Dialer
	dial := func(network, host, port string) net.Conn {
		c, err := d.DialContext(ctx, network, net.JoinHostPort(host, port))
		if err != nil {
			t.Fatalf("%s %s: %v", host, port, err)
		}
		return c
	}
	up := dial("tcp", "host", portUp) // a name, with the domain that the host looks in
	if _, err := io.Copy(up, stream()); err != nil {
		t.Fatal(err)
	}
	_ = up.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(up)
	say("up: %s, %v", answer, err)
	say("down: %s", sumOf(dial("tcp", hostOutside, portDown)))
	say("udp: %s", talk(t, dial("udp", hostOutside, portEcho), strings.Repeat("datagram ", 400)))
	for _, hidden := range []string{"10.0.2.2", "10.0.2.3"} {
		_, err := d.DialContext(ctx, "tcp", net.JoinHostPort(hidden, portHidden))
		say("hidden: %v", errors.Is(err, unix.ECONNREFUSED))
	}
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	go echo(u)
	say("the guest is ready")
	for {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

// echo sends datagrams back.
func echo(c net.PacketConn) {
	for buf := make([]byte, 1<<16); ; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(buf[:n], from)
	}
}

// talk sends a text until it comes back, and says how long it is.
func talk(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	defer c.Close()
	buf := make([]byte, 1<<16)
	for range 30 {
		_, _ = c.Write([]byte(text))
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		if n, err := c.Read(buf); err == nil {
			return fmt.Sprintf("%d %v", n, string(buf[:n]) == text)
		}
	}
	return "no answer"
}

// outside gives the test's thread a network and a resolv.conf of its own, with servers that a guest is to find, or not.
func outside(t *testing.T) {
	t.Helper()
	ownNetwork(t, "")
	for _, path := range []string{"/proc/sys/net/ipv4/ping_group_range"} {
		if err := os.WriteFile(path, []byte("0 2147483647"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(scratch(t), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\nsearch example.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/resolv.conf"); err != nil {
		run(t, "sh", "-c", "rm -f /etc/resolv.conf && touch /etc/resolv.conf")
	}
	run(t, "mount", "--make-rprivate", "/")
	run(t, "mount", "--bind", conf, "/etc/resolv.conf")
	serve := func(address string, serve func(net.Conn)) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					serve(c)
					_ = c.Close()
				}()
			}
		}()
	}
	serve(hostOutside+":"+portUp, func(c net.Conn) { fmt.Fprint(c, sumOf(c)) })
	serve(hostOutside+":"+portDown, func(c net.Conn) { _, _ = io.Copy(c, stream()) })
	serve("127.0.0.1:"+portHidden, func(c net.Conn) {})
	for _, s := range []struct {
		address string
		serve   func(net.PacketConn)
	}{{hostOutside + ":" + portEcho, echo}, {"127.0.0.1:53", serveNames}} {
		c, err := net.ListenPacket("udp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		go s.serve(c)
	}
}

// serveNames knows one name.
func serveNames(c net.PacketConn) {
	for buf := make([]byte, 512); ; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.RCode, m.Additionals = true, dnsmessage.RCodeNameError, nil
		if q := m.Questions[0]; q.Name.String() == "host.example.test." {
			m.RCode = dnsmessage.RCodeSuccess
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(hostOutside).As4()},
				}}
			}
		}
		if b, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(b, from)
		}
	}
}

// checkUserNet waits for a guest that does what TestGuestUserNet does, reaches its servers, and looks at what it has said.
func checkUserNet(t *testing.T, console *transcript, more ...string) {
	t.Helper()
	console.await(t, "the guest is ready", 4*time.Minute)
	c, err := net.Dial("tcp", "127.0.0.1:18080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = io.Copy(c, stream())
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	want := sumOf(stream())
	if got := sumOf(c); got != want {
		t.Errorf("through the published port: %s, want %s", got, want)
	}
	u, err := net.Dial("udp", "127.0.0.1:15353")
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(t, u, "a datagram"); got != "10 true" {
		t.Errorf("through the published port: %s", got)
	}
	text := strings.ReplaceAll(console.String(), "\r", "")
	for _, want := range append([]string{
		"up: " + want + ", <nil>\n", "down: " + want + "\n", "udp: 3600 true\n", "hidden: true\nhidden: true\n",
	}, more...) {
		if !strings.Contains(text, want) {
			t.Errorf("the guest does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// networks counts the processes of networks in user mode.
func networks(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range all {
		if b, _ := os.ReadFile(path); string(b) == "govmm-net\n" {
			n++
		}
	}
	return n
}

// noNetworks waits until there is none.
func noNetworks(t *testing.T) {
	t.Helper()
	for range 100 {
		if networks(t) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d processes of networks are left", networks(t))
}

// userNetBundle is a bundle with the guest's part of the test, and the annotation.
func (r *rt) userNetBundle(value string, more func(*specs.Spec), script string) string {
	r.t.Helper()
	dir := filepath.Join(r.dir, "guest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	copySelf(r.t, dir)
	return r.bundle(func(s *specs.Spec) {
		s.Annotations = map[string]string{annotationNet: value}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/guest", Type: "bind", Source: dir, Options: []string{"bind", "ro"}})
		s.Process.Env = append(s.Process.Env, guestEnv+"=/tmp")
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_NET_RAW", "CAP_NET_BIND_SERVICE")
		}
		if more != nil {
			more(s)
		}
	}, "/bin/sh", "-c", script)
}

// TestUserNetwork runs a container with a network in user mode: out and in by TCP and UDP, names, pings, and what must be out of its reach.
func TestUserNetwork(t *testing.T) {
	r := newRuntime(t)
	outside(t)
	value := "user,publish=" + publishedTCP + ",publish=" + publishedUDP
	bundle := r.userNetBundle(value, nil, `exec 2>&1
ip -o address show eth0 | grep -v fe80 | awk '{print $4}'; ip route; ip -6 route | grep default; cat /etc/resolv.conf
ping -c 1 -W 5 10.0.2.2 >/dev/null && echo the gateway answers
ping -c 1 -W 5 10.77.0.1 >/dev/null && echo the host answers
ping -c 1 -W 5 -s 4000 10.77.0.1 >/dev/null && echo in fragments
ping -c 1 -W 2 10.0.2.99 >/dev/null || echo nobody answers
exec /guest/e2e.test -test.run '^TestGuestUserNet$' -test.v`)
	id := r.id()
	cmd := r.command("run", "--bundle", bundle, id)
	console := &transcript{}
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	checkUserNet(t, console, "10.0.2.15/24\nfd00::15/64\n", "default via 10.0.2.2 dev eth0", "default via fd00::2 dev eth0", "nameserver 10.0.2.3\nsearch example.test\n",
		"the gateway answers\nthe host answers\nin fragments\nnobody answers\n")
	if n := networks(t); n != 1 {
		t.Errorf("%d processes of networks", n)
	}
	// The same port a second time, by a bundle of its own.
	r.run("create", "--bundle", r.userNetBundle(value, nil, "true"), r.id()).want(t, 1, "", "publish=18080:80/tcp: bind: address already in use")
	r.run("kill", id, "KILL").want(t, 0, "", "")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("the container's end: %v", err)
	}
	noNetworks(t)
	if b, err := os.ReadFile(filepath.Join(bundle, "rootfs/etc/resolv.conf")); err != nil || len(b) != 0 {
		t.Errorf("the mount point of resolv.conf: %q, %v", b, err)
	}
}

// TestUserNetworkRefused: what cannot be together, by name, and a resolv.conf that the bundle brings.
func TestUserNetworkRefused(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 3)
	r.run("run", "--bundle", r.userNetBundle("user", ns.join, "true"), r.id()).want(t, 1, "", "annotation io.govmm.network: the container's network namespace has an interface already: eth0")
	noNetworks(t)
	ns.host("ip netns add e2eempty")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", "e2eempty").Run() })
	empty := &netns{t: t, name: "e2eempty"}
	own := filepath.Join(r.dir, "resolv.conf")
	if err := os.WriteFile(own, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bring := func(s *specs.Spec) {
		empty.join(s)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: own, Options: []string{"bind"}})
	}
	r.run("run", "--bundle", r.userNetBundle("user", bring, "ip -o address show eth0; cat /etc/resolv.conf"), r.id()).
		want(t, 0, "10.0.2.15/24", "")
	res := r.run("run", "--bundle", r.userNetBundle("user", bring, "cat /etc/resolv.conf"), r.id())
	res.want(t, 0, "nameserver 192.0.2.1\n", "")
	noNetworks(t)
	// A monitor that is killed takes its network along.
	id := r.id()
	r.run("create", "--bundle", r.userNetBundle("user", nil, "sleep 1000"), id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	r.killMonitor(id)
	noNetworks(t)
}

// TestBootUserNetwork boots a plain VM on a network in user mode, whose guest gets its address by DHCP and by advertisements.
func TestBootUserNetwork(t *testing.T) {
	needVM(t)
	outside(t)
	cmd := exec.Command(binary(t, "govmm"), "boot", "--memory", "512M", "--initrd", initrd(t, `
busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys; busybox mount -t devtmpfs dev /dev; busybox mount -t tmpfs tmp /tmp
busybox mkdir -p /etc; busybox ip link set lo up; busybox ip link set eth0 up
cat() { busybox cat "$@"; }
cat >/tmp/dhcp <<'END'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
busybox ip addr add $ip/$mask dev $interface; busybox ip route add default via $router
echo "nameserver $dns" >/etc/resolv.conf; echo "search $search" >>/etc/resolv.conf
END
busybox chmod +x /tmp/dhcp
busybox udhcpc -i eth0 -n -q -t 20 -O search -s /tmp/dhcp
busybox ip addr show eth0; busybox ip route; cat /etc/resolv.conf
for i in 1 2 3 4 5 6 7 8 9 10; do busybox ip addr show eth0 | busybox grep fd00: && break; busybox sleep 1; done
busybox ip -6 route | busybox grep default
busybox ping -c 1 -W 5 10.77.0.1 >/dev/null && echo the host answers
`+guestEnv+`=/tmp /bin/e2e.test -test.run '^TestGuestUserNet$' -test.v
busybox reboot -f
`, "e2e.test"), "--net", "user,mac=02:00:5e:10:00:01,publish="+publishedTCP+",publish="+publishedUDP)
	console := &transcript{}
	cmd.Stdout, cmd.Stderr = console, console
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	checkUserNet(t, console, "inet 10.0.2.15/24", "default via 10.0.2.2", "nameserver 10.0.2.3\nsearch example.test", "inet6 fd00::", "default via fe80::2", "the host answers")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	noNetworks(t)
}
