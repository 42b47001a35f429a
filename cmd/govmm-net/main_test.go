package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	virtionet "github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/user"
)

// TestMain makes the test's own program govmm-net where it is started as that.
func TestMain(m *testing.M) {
	if os.Args[0] == user.ProgramName {
		main()
		return
	}
	os.Exit(m.Run())
}

func self(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// children are the processes of networks that this one has started, by their status files.
func children(t *testing.T) map[string]string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, path := range all {
		b, _ := os.ReadFile(path)
		if strings.HasPrefix(string(b), "Name:\tgovmm-net\n") && strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			out[path] = string(b)
		}
	}
	return out
}

// arp asks for the gateway, behind virtio-net's header.
func arp() []byte {
	b := make([]byte, virtionet.HeaderSize)
	b = append(b, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x0f"...)
	return append(b, "\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02"...)
}

// TestProcess starts a network as govmm does, speaks with it, looks at what it may do, and sees it end with its link.
func TestProcess(t *testing.T) {
	link, err := user.Start(user.Options{Program: self(t), ResolvConf: "/etc/resolv.conf"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	if err := link.SetOffloads(link.Features()); err != nil {
		t.Fatal(err)
	}
	if err := link.Send(context.Background(), 0, [][]byte{arp()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		buf := make([]byte, virtionet.MaxFrame)
		n, err := link.Receive(ctx, 0, [][]byte{buf}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		frame := buf[virtionet.HeaderSize:n]
		if binary.BigEndian.Uint16(frame[12:]) == 0x0806 && string(frame[28:32]) == string(user.Gateway.AsSlice()) {
			break
		}
	}
	all := children(t)
	if len(all) != 1 {
		t.Fatalf("%d processes", len(all))
	}
	for _, status := range all {
		if os.Geteuid() == 0 && !strings.Contains(status, "\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n") {
			t.Errorf("still somebody:\n%s", status)
		}
		for _, want := range []string{"\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n", "\nCapInh:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in\n%s", want, status)
			}
		}
	}
	if err := link.Close(); err != nil {
		t.Error(err)
	}
	if err := link.Send(context.Background(), 0, [][]byte{arp()}); !errors.Is(err, virtionet.ErrClosed) {
		t.Errorf("send on a closed link: %v", err)
	}
	ended(t)
}

func ended(t *testing.T) {
	t.Helper()
	for range 100 {
		if len(children(t)) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left: %v", children(t))
}

// TestStartRefused: what goes wrong in the process is said by its starter, and leaves nothing.
func TestStartRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken, err := user.ParsePublish(l.Addr().String() + ":80")
	if err != nil {
		t.Fatal(err)
	}
	before := taken // a range that ends with it
	before.HostPort, before.GuestPort, before.More = taken.HostPort-1, taken.GuestPort-1, 1
	for _, tt := range []struct {
		name string
		o    user.Options
		want string
	}{
		{"a port that is taken", user.Options{Program: self(t), Publish: []user.Publish{taken}}, "publish=" + taken.String() + ": bind: address already in use"},
		{"an address of another's", user.Options{Program: self(t), Publish: []user.Publish{{Protocol: "udp", Host: user.Gateway, HostPort: 1234, GuestPort: 1}}}, "cannot assign requested address"},
		{"the second port of a range", user.Options{Program: self(t), Publish: []user.Publish{before}}, "publish=" + taken.String() + ": bind: address already in use"},
		{"too many to name", user.Options{Program: self(t), Publish: slices.Repeat([]user.Publish{taken}, 4000)}, "4000 published ports are too many"},
		{"no program", user.Options{}, "make build"},
		{"what is no program", user.Options{Program: strings.NewReader("nothing")}, "exec format error"},
		{"a program that ends", user.Options{Program: program(t, "/bin/true")}, "ended without a word"},
	} {
		if link, err := user.Start(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) || link != nil {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	ended(t)
}

func program(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestProcessDies: a guest whose network is gone sees no frames, and its device an error that says so.
func TestProcessDies(t *testing.T) {
	link, err := user.Start(user.Options{Program: self(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	for path := range children(t) {
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err != nil {
			t.Fatal(err)
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := link.Receive(ctx, 0, [][]byte{make([]byte, 100)}, func() {}); !errors.Is(err, virtionet.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if err := link.Send(ctx, 0, [][]byte{arp()}); !errors.Is(err, virtionet.ErrClosed) {
		t.Errorf("send: %v", err)
	}
}
