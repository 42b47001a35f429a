package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/testhost/need"
)

// netns is a network namespace with an interface eth0, whose other end is the host's, with addresses at both.
type netns struct {
	t          *testing.T
	name, link string
}

// needNetwork ends the test where it cannot set up namespaces.
func needNetwork(t *testing.T) {
	t.Helper()
	for program, pkg := range map[string]string{"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "ping": "iputils-ping"} {
		need.Program(t, program, pkg)
	}
}

// newNetns makes one with 10.88.N.2/24 and fd88:N::2/64; the host has 1 in place of 2.
func newNetns(t *testing.T, n int) *netns {
	t.Helper()
	ns := &netns{t, fmt.Sprintf("e2e%d", n), fmt.Sprintf("e2e%d", n)}
	ns.host("ip netns add %s", ns.name)
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "delete", ns.name).Run()
		_ = exec.Command("ip", "link", "delete", ns.link).Run()
	})
	ns.inside("ip link set lo up")
	ns.attach("eth0", ns.link, n, 1500)
	ns.inside("ip route add default via 10.88.%d.1", n)
	ns.inside("ip route add default via fd88:%d::1", n)
	return ns
}

// attach puts one more interface into the namespace.
func (ns *netns) attach(name, link string, n, mtu int) {
	ns.t.Helper()
	ns.host("ip link add %s mtu %d type veth peer name %s mtu %d netns %s", link, mtu, name, mtu, ns.name)
	ns.host("ip address add 10.88.%d.1/24 dev %s && ip address add fd88:%d::1/64 dev %s nodad && ip link set %s up", n, link, n, link, link)
	ns.inside("ip link set %s up", name)
	ns.inside("ip address add 10.88.%d.2/24 dev %s && ip address add fd88:%d::2/64 dev %s nodad", n, name, n, name)
}

func (ns *netns) host(format string, args ...any) string {
	ns.t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	if err != nil {
		ns.t.Fatalf("%s: %v: %s", fmt.Sprintf(format, args...), err, out)
	}
	return string(out)
}

func (ns *netns) inside(format string, args ...any) string {
	ns.t.Helper()
	return ns.host("ip netns exec %s sh -c '%s'", ns.name, fmt.Sprintf(format, args...))
}

// join puts a container into the namespace.
func (ns *netns) join(s *specs.Spec) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = "/run/netns/" + ns.name
		}
	}
}

// joinRaw does so, and lets the container ping.
func (ns *netns) joinRaw(s *specs.Spec) {
	ns.join(s)
	for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
		*set = append(*set, "CAP_NET_RAW")
	}
}

// traces are what a namespace shows of how it is set up. The kernel looks for duplicates of link-local addresses in its own time, and tells a link's
// state up to a second after the fact: links that are about to come up are waited for.
func (ns *netns) traces() string {
	ns.t.Helper()
	return ns.inside("for i in $(seq 30); do ip -o link show up | grep -v \": lo:\" | grep -qv \"state UP\" || break; sleep 0.1; done; ip -o link; ip -o address | grep -v fe80; ip route; ip -6 route; ip rule; nft list ruleset 2>&1; tc qdisc; cat /proc/sys/net/ipv4/ip_local_port_range")
}

// unchanged compares with the traces of before.
func (ns *netns) unchanged(before string) {
	ns.t.Helper()
	if after := ns.traces(); after != before {
		ns.t.Errorf("the namespace before (-) and after (+):\n%s", cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")))
	}
}

// TestNetwork runs a container in a network namespace under runc and under govmm-run, and compares what it sees and whom it reaches.
func TestNetwork(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 1)
	ns.attach("net1", "e2e1b", 2, 9000)
	ns.inside("ip route add 10.99.0.0/16 via 10.88.2.1 metric 7 && ip neigh add 10.88.1.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")
	ns.inside("echo 2 >/proc/sys/net/ipv4/conf/net1/rp_filter; echo 0 >/proc/sys/net/ipv6/conf/net1/accept_ra")
	bundle := r.bundle(ns.joinRaw, "/bin/sh", "-c", `exec 2>&1
for i in eth0 net1; do cat /sys/class/net/$i/address /sys/class/net/$i/mtu; done
ip -o address | grep -v fe80 | sed 's/^[0-9]*: //; s/[\\].*//'
ip route; ip -6 route | grep -v -e fe80 -e multicast | sed 's/ pref.*//; s/ expires.*//'
ip neigh show nud permanent | grep -v fe80 | sed 's/ used.*//'
cat /proc/sys/net/ipv4/conf/net1/rp_filter /proc/sys/net/ipv6/conf/net1/accept_ra
for a in 10.88.1.1 10.88.2.1; do ping -c 2 -W 5 $a >/dev/null && echo $a answers; done
for a in fd88:1::1 fd88:2::1; do ping -6 -c 2 -W 5 $a >/dev/null && echo $a answers; done
ping -c 1 -W 5 -s 8900 10.88.2.1 >/dev/null && echo a big one
`)
	before := ns.traces()
	runc := need.Program(t, "runc", "runc")
	theirs := finish(t, exec.Command(runc, "--root", r.dir+"/runc", "run", "--bundle", bundle, r.id()), nil)
	if theirs.status != 0 || !strings.HasSuffix(theirs.out, "fd88:2::1 answers\na big one\n") {
		t.Fatalf("runc: status %d\n%s%s", theirs.status, theirs.out, theirs.err)
	}
	if ours := r.run("run", "--bundle", bundle, r.id()); ours != theirs {
		t.Errorf("runc: status %d\n%s%s\ngovmm-run: status %d\n%s%s", theirs.status, theirs.out, theirs.err, ours.status, ours.out, ours.err)
	}
	ns.unchanged(before)
}

// TestNetworkFollows changes a running container's namespace, and kills its monitor in the end.
func TestNetworkFollows(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 3)
	before := ns.traces()
	id := r.id()
	bundle := r.bundle(ns.joinRaw, "/bin/sh", "-c", "exec sleep 1000")
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	ns.attach("net1", "e2e3b", 4, 1400) // as docker does it, after create
	r.run("start", id).want(t, 0, "", "")
	exec := func(script string) string { return r.run("exec", id, "sh", "-c", script).out }
	until := func(what, script, want string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if got = exec(script); got == want {
				return
			}
		}
		t.Errorf("%s: %q, want %q", what, got, want)
	}
	addresses := `ip -o -4 address | sed 's/^[0-9]*: \([^ ]*\) *inet \([^ ]*\).*/\1 \2/'`
	until("both interfaces", addresses, "lo 127.0.0.1/8\neth0 10.88.3.2/24\nnet1 10.88.4.2/24\n")
	ns.inside("ip address add 10.88.3.5/24 dev eth0")
	until("an address more", addresses, "lo 127.0.0.1/8\neth0 10.88.3.2/24\neth0 10.88.3.5/24\nnet1 10.88.4.2/24\n")
	ns.host("ip link delete e2e3b")
	until("an interface less", addresses+"; cat /sys/class/net/net1/mtu 2>/dev/null", "lo 127.0.0.1/8\neth0 10.88.3.2/24\neth0 10.88.3.5/24\n")
	ns.attach("net2", "e2e3c", 5, 1500)
	until("one that comes later", addresses+"; ping -c 1 -W 5 10.88.5.1 >/dev/null && echo answers",
		"lo 127.0.0.1/8\neth0 10.88.3.2/24\neth0 10.88.3.5/24\nnet2 10.88.5.2/24\nanswers\n")
	if !strings.Contains(ns.host("ping -c 2 -W 5 10.88.3.2"), " 0% packet loss") {
		t.Error("the host does not reach the guest")
	}
	r.killMonitor(id)
	ns.host("ip link delete e2e3c")
	ns.inside("ip address delete 10.88.3.5/24 dev eth0")
	ns.unchanged(before)
	r.run("delete", "--force", id)
}

// TestNetworkTooMany has one interface more than a guest can have, at start and later: the first is an error until one is taken out, the
// second is left out, and no more.
func TestNetworkTooMany(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 6)
	more := func(n int) { ns.host("ip link add e2e6x%d type veth peer name net%d netns %s", n, n, ns.name) }
	t.Cleanup(func() {
		_ = exec.Command("sh", "-c", "for n in 1 2 3 4 5 6 7 8; do ip link delete e2e6x$n; done").Run()
	})
	for n := range 8 {
		more(n + 1)
	}
	id := r.id()
	r.run("create", "--bundle", r.bundle(ns.join, "/bin/sh", "-c", "exec sleep 1000"), id).want(t, 0, "", "")
	r.run("start", id).want(t, 1, "", "interface net8: a micro-VM has at most 8 network interfaces")
	ns.host("ip link delete e2e6x8")
	r.run("start", id).want(t, 0, "", "")
	more(8)
	time.Sleep(time.Second)
	names := ns.inside("ip -o link | grep -c govmm")
	ns.inside("ip address add 10.88.6.9/24 dev eth0")
	var got string
	for range 50 {
		if got = r.run("exec", id, "ip", "-o", "-4", "address").out; strings.Contains(got, "10.88.6.9") {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if !strings.Contains(got, "10.88.6.9") {
		t.Errorf("the guest does not follow any more: %s", got)
	}
	if n := ns.inside("ip -o link | grep -c govmm"); n != names || names != "8\n" {
		t.Errorf("%q TAPs, and %q before", n, names)
	}
	r.run("delete", "--force", id).want(t, 0, "", "")
}

// killMonitor ends a container's monitor as nothing else does, and waits for it.
func (r *rt) killMonitor(id string) {
	r.t.Helper()
	pid := r.pidOf(id)
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
	}
	r.t.Fatalf("the monitor %d does not end", pid)
}
