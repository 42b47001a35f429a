package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// netBundle is a bundle in the namespace that has the client, and may do with its network what it likes.
func (ns *netns) netBundle(r *rt, args ...string) string {
	bundle := r.bundle(func(s *specs.Spec) {
		ns.joinRaw(s)
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_NET_ADMIN")
		}
		s.Process.Rlimits = nil
	}, args...)
	copyClient(r.t, filepath.Join(bundle, "rootfs"))
	return bundle
}

// hostClient runs a tool on the host.
func (r *rt) hostClient(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{clientName}, args...)
	return cmd
}

// serveOnHost keeps a tool running until the test ends.
func (r *rt) serveOnHost(args ...string) {
	r.t.Helper()
	cmd := r.hostClient(args...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func (r *rt) wantClient(out string, args ...string) {
	r.t.Helper()
	begin := time.Now()
	res := finish(r.t, r.hostClient(args...), nil)
	r.t.Logf("%v: %.1fs", args, time.Since(begin).Seconds())
	if res.status != 0 || res.out != out {
		r.t.Errorf("%v: status %d, %q, %s", args, res.status, res.out, res.err)
	}
}

// start runs a container in the background.
func (r *rt) start(bundle string) string {
	r.t.Helper()
	id := r.id()
	r.run("create", "--bundle", bundle, id).want(r.t, 0, "", "")
	r.run("start", id).want(r.t, 0, "", "")
	return id
}

// TestNetworkLoad streams both ways and makes many short connections, in and out, and does so on links that lose frames and change their order.
func TestNetworkLoad(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	bytes, connections := "16000000", "500"
	if full() {
		bytes, connections = "1000000000", "10000"
	}
	ns := newNetns(t, 6)
	r.serveOnHost("echo", "10.88.6.1:7")
	r.serveOnHost("streams", "10.88.6.1:99")
	id := r.start(ns.netBundle(r, "/bin/sh", "-c", "/client echo :7 & exec /client streams :99"))
	inside := func(out string, args ...string) {
		t.Helper()
		begin := time.Now()
		res := r.run(append([]string{"exec", id, clientName}, args...)...)
		t.Logf("inside: %v: %.1fs", args, time.Since(begin).Seconds())
		if res.status != 0 || res.out != out {
			t.Errorf("inside: %v: status %d, %q, %s", args, res.status, res.out, res.err)
		}
	}
	r.wantClient(bytes+" bytes each way\n", "stream", "10.88.6.2:99", bytes)
	inside("4000000 bytes each way\n", "stream", "10.88.6.1:99", "4000000")
	r.wantClient(connections+" connections\n", "many", "[fd88:6::2]:7", connections)
	inside(connections+" connections\n", "many", "10.88.6.1:7", connections)
	const netem = "root netem delay 3ms 1ms loss 2%% reorder 20%% duplicate 1%%"
	ns.host("tc qdisc add dev %s "+netem, ns.link)
	ns.inside("tc qdisc add dev eth0 " + netem)
	r.wantClient("2000000 bytes each way\n", "stream", "10.88.6.2:99", "2000000")
	inside("2000000 bytes each way\n", "stream", "10.88.6.1:99", "2000000")
	inside("50 connections\n", "many", "10.88.6.1:7", "50")
	if dropped := ns.host("tc -s qdisc show dev %s", ns.link) + ns.inside("tc -s qdisc show dev eth0"); strings.Count(dropped, "dropped 0,") > 0 {
		t.Errorf("nothing was lost:\n%s", dropped)
	}
	r.run("delete", "--force", id)
}

// TestNetworkHostile has a container send garbage, flood and change its address. The host, its kernel and another container stay well.
func TestNetworkHostile(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	bad, good := newNetns(t, 7), newNetns(t, 8)
	before := bad.traces() + good.traces()
	bad.host("ip link add e2ebr type bridge && ip link set e2ebr up && ip link set %s master e2ebr && ip link set %s master e2ebr", bad.link, good.link)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "e2ebr").Run() })
	for _, ns := range []*netns{bad, good} {
		ns.host("ip address flush dev %s && ip address add 10.88.%s.1/24 dev e2ebr", ns.link, ns.name[3:])
	}
	kernelBefore := kernelComplaints(t)
	victim := r.start(good.netBundle(r, "/client", "echo", ":7"))
	seconds := "10"
	if full() {
		seconds = "120"
	}
	id := r.start(bad.netBundle(r, "/bin/sh", "-c", "exec sleep 1000"))
	flood := r.command("exec", id, clientName, "garbage", "eth0", seconds)
	done := make(chan result)
	go func() { done <- finish(t, flood, nil) }()
	for range 3 {
		r.wantClient("tcp well\n", "ask-echo", "tcp", "10.88.8.2:7", "well")
		r.wantClient("udp well\n", "ask-echo", "udp", "10.88.8.2:7", "well")
	}
	if res := <-done; res.status != 0 || res.out != "frames sent\n" {
		t.Errorf("the flood: status %d, %q, %s", res.status, res.out, res.err)
	} else {
		t.Log(res.err)
	}
	r.run("exec", id, "sh", "-c", "ip link set eth0 address 02:00:00:00:07:07 && ping -c 3 -W 20 10.88.7.1 >/dev/null && cat /sys/class/net/eth0/address").
		want(t, 0, "02:00:00:00:07:07\n", "")
	r.run("exec", id, "sh", "-c", "ip link set eth0 down; ip link set eth0 up; ping -c 3 -W 20 10.88.7.1 >/dev/null && echo answers").want(t, 0, "answers\n", "")
	r.wantClient("tcp well\n", "ask-echo", "tcp", "10.88.8.2:7", "well")
	r.waitStatus(id, "running")
	r.waitStatus(victim, "running")
	r.run("delete", "--force", id).want(t, 0, "", "")
	r.run("delete", "--force", victim).want(t, 0, "", "")
	if after := bad.traces() + good.traces(); after != before {
		t.Errorf("the namespaces before:\n%s\nand after:\n%s", before, after)
	}
	if now := kernelComplaints(t); now != kernelBefore {
		t.Errorf("the host's kernel complains:\n%s", strings.TrimPrefix(now, kernelBefore))
	}
}

// kernelComplaints are the lines of the kernel's log about faults of its own.
func kernelComplaints(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|general protection|hung task|soft lockup' || true").CombinedOutput()
	if err != nil {
		t.Fatalf("dmesg: %v: %s", err, out)
	}
	return string(out)
}
