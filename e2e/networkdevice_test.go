package e2e

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestNetworkDevices gives a container an interface of the host's, under a new name, and looks for it in the guest; the namespace keeps it when
// the container has gone. One that is not there, and one that carries no Ethernet frames, are refused and leave nothing behind.
func TestNetworkDevices(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 8)
	ns.host("ip link add e2e8a mtu 1400 type veth peer name e2e8b && ip link set e2e8b up")
	ns.host("ip address add 10.89.8.2/24 dev e2e8a && ip address add fd89:8::2/64 dev e2e8a nodad && ip address add 10.89.8.1/24 dev e2e8b")
	t.Cleanup(func() { ns.host("ip link delete e2e8b 2>/dev/null || true") })
	refused := func(name, want string) {
		t.Helper()
		bundle := r.bundle(func(s *specs.Spec) {
			ns.join(s)
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"e2e8a": {}, name: {}}
		}, "true")
		r.run("run", "--bundle", bundle, r.id()).want(t, 1, "", want)
		ns.host("ip link show e2e8a")
	}
	refused("lo", "linux.netDevices: lo: it carries no Ethernet frames")
	refused("e2e8z", "linux.netDevices: e2e8z: there is no such interface")
	bundle := r.bundle(func(s *specs.Spec) {
		ns.joinRaw(s)
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"e2e8a": {Name: "data0"}}
	}, "/bin/sh", "-c", `cat /sys/class/net/data0/address /sys/class/net/data0/mtu
ip -o address show dev data0 | grep -v fe80 | awk '{print $4}'
ping -c 2 -W 5 10.89.8.1 >/dev/null && echo answers`)
	mac := strings.TrimSpace(ns.host("cat /sys/class/net/e2e8a/address"))
	r.run("run", "--bundle", bundle, r.id()).want(t, 0, mac+"\n1400\n10.89.8.2/24\nfd89:8::2/64\nanswers\n", "")
	if out := ns.inside("ip -o address show dev data0"); !strings.Contains(out, "10.89.8.2/24") {
		t.Errorf("after the container, its namespace has %q", out)
	}
}
