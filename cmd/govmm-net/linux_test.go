package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
	virtionet "github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/tap"
	"github.com/govmm/govmm/virtio/net/user"
)

// namespace is a thread in a network namespace of its own.
type namespace struct {
	t     *testing.T
	calls chan func()
	file  *os.File
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	ns := &namespace{t: t, calls: make(chan func())}
	t.Cleanup(func() { close(ns.calls) })
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		ready <- err
		for f := range ns.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.file.Close() })
	return ns
}

func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// sh runs a script there.
func (ns *namespace) sh(format string, args ...any) string {
	ns.t.Helper()
	var out []byte
	var err error
	ns.do(func() { out, err = exec.Command("sh", "-ec", fmt.Sprintf(format, args...)).CombinedOutput() })
	if err != nil {
		ns.t.Errorf("%s: %v: %s", fmt.Sprintf(format, args...), err, out)
	}
	return string(out)
}

// carry moves frames from one link to the other until it is closed.
func carryFrames(ctx context.Context, to, from virtionet.Link) {
	buf := make([]byte, virtionet.MaxFrame)
	for {
		n, err := from.Receive(ctx, 0, [][]byte{buf}, func() {})
		if err != nil {
			return
		}
		_ = to.Send(ctx, 0, [][]byte{buf[:n]})
	}
}

const streamSize = 64 << 20

func stream() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{3}), streamSize) }

func sumOf(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %x", n, h.Sum(nil)[:8])
}

// TestLinux has this machine's kernel be the guest's, in a namespace, behind a TAP, with all offloads and with none: what it gets by DHCP and
// advertisements, streams each way, pings, what it may not reach, and ports that are published.
func TestLinux(t *testing.T) {
	need.TAP(t)
	need.Program(t, "ip", "iproute2")
	busybox := need.Program(t, "busybox", "busybox-static")
	for _, tt := range []struct {
		name     string
		offloads uint64
	}{
		{"offloads", virtionet.FeatureGuestCSum | virtionet.FeatureGuestTSO4 | virtionet.FeatureGuestTSO6}, {"plain", 0},
	} {
		t.Run(tt.name, func(t *testing.T) { testLinux(t, busybox, tt.offloads) })
	}
}

func testLinux(t *testing.T, busybox string, offloads uint64) {
	host, guest := newNamespace(t), newNamespace(t)
	host.sh("ip link set lo up; ip tuntap add dev out mode tap; ip link set out up; ip addr add 10.77.0.1/24 dev out; ip addr add fd77::1/64 dev out nodad")
	host.sh("echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range")
	listen := func(address string, serve func(net.Conn)) {
		var l net.Listener
		var err error
		host.do(func() { l, err = net.Listen("tcp", address) })
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
	listen("10.77.0.1:9000", func(c net.Conn) { fmt.Fprint(c, sumOf(c)) })
	listen("[fd77::1]:9001", func(c net.Conn) { _, _ = io.Copy(c, stream()) })
	listen("127.0.0.1:9003", func(c net.Conn) {})
	publish, err := user.ParseNetwork("user,publish=127.0.0.1:8079-8080:79-80,publish=[::1]:5353:53/udp")
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\nsearch example.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	link, err := user.Start(user.Options{Program: self(t), Publish: publish, Namespace: host.file, ResolvConf: conf})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	var card *tap.TAP
	guest.do(func() { card, err = tap.New(tap.Config{Name: "eth0"}) })
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if err := errors.Join(card.SetOffloads(offloads), link.SetOffloads(offloads)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var carrying sync.WaitGroup
	carrying.Go(func() { carryFrames(ctx, link, card) })
	carrying.Go(func() { carryFrames(ctx, card, link) })
	defer carrying.Wait()
	defer cancel()
	script := filepath.Join(t.TempDir(), "dhcp")
	if err := os.WriteFile(script, []byte(`#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface; ip route add default via $router; echo "dns $dns search $search mtu $mtu lease $lease"
`), 0o755); err != nil {
		t.Fatal(err)
	}
	guest.sh("echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range; ip link set lo up; ip link set eth0 up")
	if got, want := guest.sh("%s udhcpc -i eth0 -n -q -f -t 10 -T 1 -O search -O mtu -s %s 2>&1", busybox, script), "dns 10.0.2.3 search example.test mtu 1500 lease 86400"; !strings.Contains(got, want) {
		t.Errorf("DHCP: %s, want %s", got, want)
	}
	if got := guest.sh("for i in $(seq 50); do ip -6 addr show dev eth0 scope global | grep -v tentative | grep fd00: && break; sleep 0.1; done; ip -6 route"); !strings.Contains(got, "inet6 fd00::") || !strings.Contains(got, "default via fe80::2 dev eth0") {
		t.Errorf("advertisements: %s", got)
	}
	want := sumOf(stream())
	dial := func(network, address string) net.Conn {
		var c net.Conn
		var err error
		guest.do(func() { c, err = net.DialTimeout(network, address, 20*time.Second) })
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	up := dial("tcp", "10.77.0.1:9000")
	begin := time.Now()
	if _, err := io.Copy(up, stream()); err != nil {
		t.Error(err)
	}
	_ = up.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(up); string(got) != want || err != nil {
		t.Errorf("up: %s, %v, want %s", got, err, want)
	}
	t.Logf("up: %.0f MB/s", streamSize/1e6/time.Since(begin).Seconds())
	begin = time.Now()
	if got := sumOf(dial("tcp", "[fd77::1]:9001")); got != want {
		t.Errorf("down: %s, want %s", got, want)
	}
	t.Logf("down: %.0f MB/s", streamSize/1e6/time.Since(begin).Seconds())
	for _, hidden := range []string{"10.0.2.2:9003", "10.0.2.3:9003", "[fd00::2]:9003", "10.77.0.1:9003"} {
		guest.do(func() { _, err = net.DialTimeout("tcp", hidden, 20*time.Second) })
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", hidden, err)
		}
	}
	for _, args := range []string{"10.0.2.2", "10.77.0.1", "-s 4000 10.77.0.1", "fd00::2", "fd77::1"} {
		guest.sh("ping -c 2 -i 0.2 -W 5 %s", args)
	}
	guest.sh("! ping -c 1 -W 1 10.0.2.99")
	guest.sh("! ping -c 1 -W 1 10.77.0.77")
	var l net.Listener
	var u net.PacketConn
	guest.do(func() {
		var err2 error
		l, err = net.Listen("tcp", ":80")
		u, err2 = net.ListenPacket("udp", ":53")
		err = errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer u.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	go func() {
		for buf := make([]byte, 1<<16); ; {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
	var c, d net.Conn
	host.do(func() {
		var err2 error
		c, err = net.Dial("tcp", "127.0.0.1:8080")
		d, err2 = net.Dial("udp", "[::1]:5353")
		err = errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer d.Close()
	go func() {
		_, _ = io.Copy(c, stream())
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if got := sumOf(c); got != want {
		t.Errorf("there and back: %s, want %s", got, want)
	}
	text := strings.Repeat("datagram ", 500)
	buf := make([]byte, 1<<16)
	n := 0
	for i := 0; n == 0 && i < 20; i++ {
		_, _ = d.Write([]byte(text))
		_ = d.SetReadDeadline(time.Now().Add(time.Second))
		n, _ = d.Read(buf)
	}
	if string(buf[:n]) != text {
		t.Errorf("%d bytes came back of %d", n, len(text))
	}
	many := 2000
	for i := range many {
		host.do(func() { c, err = net.DialTimeout("tcp", "127.0.0.1:8080", 20*time.Second) })
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_, _ = c.Write([]byte("x"))
		if n, err := c.Read(buf); n != 1 {
			t.Fatalf("connection %d: %v", i, err)
		}
		_ = c.Close()
	}
	for _, status := range children(t) {
		for line := range strings.Lines(status) {
			if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "Threads") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}
