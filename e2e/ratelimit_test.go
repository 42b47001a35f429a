package e2e

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestRateLimits bounds what an interface and a disk of a container move, by their annotations, and takes the time.
// Bounds are wide: bursts pass at once, and the last frame is paid for after it has passed.
func TestRateLimits(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 10)
	const size = 2 << 20
	_, major, minor := loopDevice(t, filepath.Join(r.dir, "image"), size)
	listener, err := net.Listen("tcp", "10.88.10.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	config := func(limits map[string]string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			ns.join(s)
			s.Annotations = limits
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: major, Minor: minor}}
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: "rm"}}}
		}
	}
	timed := func(limits map[string]string) (send, receive, disk time.Duration) {
		t.Helper()
		id := r.id()
		bundle := r.bundle(config(limits), "/bin/sh", "-c", "exec sleep 1000")
		r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
		done := make(chan error, 1)
		var wrote time.Time
		go func() {
			var err error
			send, wrote, err = exchange(listener, size)
			done <- err
		}()
		r.run("exec", id, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | busybox nc 10.88.10.1 %s | wc -c", size, port)).want(t, 0, fmt.Sprint(size), "")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		receive = time.Since(wrote) // the container has counted all of it; what the host has written may still be in its buffer
		began := time.Now()
		r.run("exec", id, "dd", "if=/dev/data", "of=/dev/null", "bs=64k").want(t, 0, "", "32+0 records in")
		disk = time.Since(began)
		r.run("delete", "--force", id).want(t, 0, "", "")
		return send, receive, disk
	}
	send, receive, disk := timed(nil)
	t.Logf("without limits: sent in %v, received in %v, read in %v", send, receive, disk)
	limited := map[string]string{"io.govmm.networkLimit": "rate=256K:64K", "io.govmm.diskLimit": "rate=512K:64K,ops=100K"}
	slowSend, slowReceive, slowDisk := timed(limited)
	t.Logf("with limits: sent in %v, received in %v, read in %v", slowSend, slowReceive, slowDisk)
	for _, c := range []struct {
		what        string
		fast, slow  time.Duration
		least, most time.Duration
	}{
		{"sent", send, slowSend, 7 * time.Second, 30 * time.Second},
		{"received", receive, slowReceive, 7 * time.Second, 30 * time.Second},
		{"read from a disk", disk, slowDisk, 3 * time.Second, 15 * time.Second},
	} {
		if c.fast > c.least || c.slow < c.least || c.slow > c.most {
			t.Errorf("2 MiB were %s in %v without a limit, in %v with one, which should be between %v and %v", c.what, c.fast, c.slow, c.least, c.most)
		}
	}
	for name, bad := range map[string]string{"io.govmm.networkLimit": "rate=10X", "io.govmm.diskLimit": "iops=5"} {
		bundle := r.bundle(config(map[string]string{name: bad}), "true")
		r.run("create", "--bundle", bundle, r.id()).want(t, 1, "", "annotation "+name+": ")
	}
}

// exchange takes a connection, reads size bytes from it, and then writes as many. It says how long the reading took, and when the writing began.
func exchange(l net.Listener, size int64) (read time.Duration, wrote time.Time, err error) {
	c, err := l.Accept()
	if err != nil {
		return 0, wrote, err
	}
	defer c.Close()
	began := time.Now()
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		return 0, wrote, err
	}
	wrote = time.Now()
	_, err = c.Write(make([]byte, size))
	return wrote.Sub(began), wrote, err
}
