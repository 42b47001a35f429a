package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// TestNetworkKinds gives a container interfaces that are no ends of a veth: a macvlan, as CNI's plugin makes it, and a bridge with a port.
func TestNetworkKinds(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 7)
	// The macvlan is above one end of a veth, for a host cannot reach those above its own interface; the other end has the address.
	ns.host("ip link add e2e7a type veth peer name e2e7b && ip address add 10.88.70.1/24 dev e2e7a && ip link set e2e7a up && ip link set e2e7b up")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "e2e7a").Run() })
	ns.host("ip link add link e2e7b name e2e7m type macvlan mode bridge && ip link set e2e7m netns %s name mac0", ns.name)
	ns.inside("ip link set mac0 up && ip address add 10.88.70.2/24 dev mac0")
	ns.attach("port0", "e2e7p", 71, 1500)
	ns.inside("ip link add br0 type bridge && ip link set port0 master br0 && ip address flush dev port0 && ip link set br0 up && ip address add 10.88.71.2/24 dev br0")
	bundle := r.bundle(ns.joinRaw, "/bin/sh", "-c", `exec 2>&1
ip -o -4 address | sed 's/^[0-9]*: //; s/[\\].*//'
cat /sys/class/net/mac0/address /sys/class/net/br0/address
for a in 10.88.7.1 10.88.70.1 10.88.71.1; do ping -c 2 -W 5 $a >/dev/null && echo $a answers; done
`)
	before := ns.traces()
	runc := need.Program(t, "runc", "runc")
	theirs := finish(t, exec.Command(runc, "--root", r.dir+"/runc", "run", "--bundle", bundle, r.id()), nil)
	if theirs.status != 0 || !strings.HasSuffix(theirs.out, "10.88.70.1 answers\n10.88.71.1 answers\n") {
		t.Fatalf("runc: status %d\n%s%s", theirs.status, theirs.out, theirs.err)
	}
	if ours := r.run("run", "--bundle", bundle, r.id()); ours != theirs {
		t.Errorf("runc: %+v\ngovmm-run: %+v", theirs, ours)
	}
	ns.unchanged(before)
}
