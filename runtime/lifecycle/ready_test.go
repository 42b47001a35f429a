package lifecycle

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/control"
)

// serviceManager is a socket as NOTIFY_SOCKET names it, and a connection to it.
func serviceManager(t *testing.T) (socket, client *net.UnixConn) {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	socket, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	_ = socket.SetReadDeadline(time.Now().Add(10 * time.Second))
	client, err = net.DialUnix("unixgram", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	return socket, client
}

// connection returns both ends of a control connection.
func connection(t *testing.T) (caller, monitor *control.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*control.Conn
	for i, fd := range fds {
		if ends[i], err = control.FromFile(os.NewFile(uintptr(fd), "pair")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// TestReadiness tells a service manager of a container, and waits until it has read that.
func TestReadiness(t *testing.T) {
	socket, client := serviceManager(t)
	caller, monitor := connection(t)
	n := &readiness{manager: client, monitor: caller, pid: 17}
	done := make(chan error, 1)
	go func() { done <- n.wait() }()
	if err := monitor.Send(control.Reply{Ready: "READY=1\n"}); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 100), make([]byte, 100)
	oobn := 0
	for _, want := range []string{"READY=1\n", "MAINPID=17\n", "BARRIER=1"} {
		size, with, _, _, err := socket.ReadMsgUnix(b, oob)
		if err != nil || string(b[:size]) != want {
			t.Fatalf("%q, %v, want %q", b[:size], err, want)
		}
		oobn = with
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("the barrier has %d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("the barrier has %d descriptors, %v", len(fds), err)
	}
	select {
	case err := <-done:
		t.Fatalf("it did not wait for the barrier: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	unix.Close(fds[0])
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNotReady has a container end, or have no way to say that it is ready.
func TestNotReady(t *testing.T) {
	for _, end := range []func(*control.Conn){func(c *control.Conn) { c.Close() }, func(c *control.Conn) { _ = c.Send(control.Reply{}) }} {
		socket, client := serviceManager(t)
		caller, monitor := connection(t)
		n := &readiness{manager: client, monitor: caller}
		end(monitor)
		if err := n.wait(); err != nil {
			t.Error(err)
		}
		_ = socket.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if size, err := socket.Read(make([]byte, 100)); err == nil {
			t.Errorf("the manager was told %d bytes", size)
		}
	}
	if err := (*readiness)(nil).wait(); err != nil {
		t.Error(err)
	}
}
