package monitor

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/sandbox"
)

// hostSocket is the bound socket at path, as the sandbox hands it out.
func hostSocket(t *testing.T, path string) *sandbox.Socket {
	t.Helper()
	open := func(path string) *os.File {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), path)
		t.Cleanup(func() { f.Close() })
		return f
	}
	tree := &sandbox.Tree{Sources: []*os.File{open(path)}, ProcSelfFD: open("/proc/self/fd")}
	s, err := tree.Socket(0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// relayed runs a relay and returns the guest's end of its stream.
func relayed(t *testing.T, relay func(net.Conn)) (guest *net.UnixConn, ended chan struct{}) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		defer ends[0].Close()
		relay(ends[0])
	}()
	t.Cleanup(func() { ends[1].Close() })
	return ends[1].(*net.UnixConn), ended
}

func wantEnd(t *testing.T, ended chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the relay goes on")
	}
}

func TestRelayStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{log: newLogger(false)}
	s := hostSocket(t, path)
	dial := func() (guest, server *net.UnixConn, ended chan struct{}) {
		guest, ended = relayed(t, func(c net.Conn) { m.relayStream(c, s) })
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if b := make([]byte, 1); func() bool { _, err := io.ReadFull(guest, b); return err != nil || b[0] != agent.Connected }() {
			t.Fatalf("the stream begins with %q", b)
		}
		return guest, c.(*net.UnixConn), ended
	}

	guest, server, ended := dial() // half-close: the answer comes after the client's last word
	big := strings.Repeat("x", 1<<20)
	go func() { _, _ = io.WriteString(guest, big); _ = guest.CloseWrite() }()
	if b, err := io.ReadAll(server); err != nil || string(b) != big {
		t.Errorf("server got %d bytes, %v", len(b), err)
	}
	_, _ = io.WriteString(server, "answer")
	server.Close()
	if b, err := io.ReadAll(guest); err != nil || string(b) != "answer" {
		t.Errorf("client got %q, %v", b, err)
	}
	guest.Close()
	wantEnd(t, ended)

	guest, server, ended = dial() // the client goes away while the server says nothing
	guest.Close()
	wantEnd(t, ended)
	if _, err := server.Write([]byte("x")); err == nil {
		t.Error("the server can still write")
	}

	l.Close()
	guest, ended = relayed(t, func(c net.Conn) { m.relayStream(c, s) })
	if b, err := io.ReadAll(guest); err != nil || len(b) != 0 {
		t.Errorf("without a server: %q, %v", b, err)
	}
	wantEnd(t, ended)
}

func TestRelayDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := &monitor{log: newLogger(false)}
	s := hostSocket(t, path)
	guest, ended := relayed(t, func(c net.Conn) { m.relayDatagrams(c, s) })
	for _, want := range []string{"", "READY=1\n", "", "STATUS=fine\n"} {
		if err := agent.WriteDatagram(guest, []byte(want)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, err := l.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("got %q, %v, want %q", b[:n], err, want)
		}
	}
	_, _ = guest.Write([]byte{255, 255, 255, 255}) // no such length
	wantEnd(t, ended)
}
