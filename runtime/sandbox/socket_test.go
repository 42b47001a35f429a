package sandbox

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sources opens each path as Enter does, though without its namespaces.
func sources(t *testing.T, paths ...string) *Tree {
	t.Helper()
	tree := &Tree{}
	var err error
	if tree.ProcSelfFD, err = openPath("/proc/self/fd", unix.O_DIRECTORY); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		f, err := openPath(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		tree.Sources = append(tree.Sources, f)
	}
	t.Cleanup(func() { tree.ProcSelfFD.Close() })
	return tree
}

// TestSocketIn looks for a socket in a bound directory, into which a container may write.
func TestSocketIn(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "s")
	for _, path := range []string{filepath.Join(dir, "s"), outside} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tree := sources(t, dir, filepath.Join(dir, "file"))
	tree.Sources = append(tree.Sources, nil)
	s, err := tree.SocketIn(0, "s")
	if err != nil || s == nil || !s.Datagram() {
		t.Fatalf("the socket: %+v, %v", s, err)
	}
	c, err := s.Dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, name := range []string{"link", "file", "none"} {
		if s, err := tree.SocketIn(0, name); s != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if s, err := tree.SocketIn(0, "../"+filepath.Base(filepath.Dir(outside))+"/s"); s != nil {
		t.Errorf("outside: %+v, %v", s, err)
	}
	for i := range tree.Sources[1:] {
		if s, err := tree.SocketIn(i+1, "s"); s != nil || err != nil {
			t.Errorf("source %d is no directory: %+v, %v", i+1, s, err)
		}
	}
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	stream, err := net.ListenUnix("unix", &net.UnixAddr{Name: path("stream"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	datagram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path("datagram"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer datagram.Close()
	packet, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path("packet"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path("dead"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if err := os.WriteFile(path("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path("stream"), 0o620); err != nil {
		t.Fatal(err)
	}
	tree := sources(t, path("stream"), path("datagram"), path("packet"), path("dead"), path("file"), dir)
	tree.Sources = append(tree.Sources, nil)
	// The names go: a bind mount's source need not keep its.
	stream.SetUnlinkOnClose(false)
	if err := os.Rename(path("stream"), path("elsewhere")); err != nil {
		t.Fatal(err)
	}

	s, err := tree.Socket(0)
	if err != nil || s == nil || s.Datagram() || s.Mode != 0o620 || s.UID != uint32(os.Getuid()) {
		t.Fatalf("stream: %+v, %v", s, err)
	}
	if _, err := os.Stat("socket_test.go"); err != nil {
		t.Errorf("the process's working directory has changed: %v", err)
	}
	c, err := s.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := stream.AcceptUnix() // the first one: probing did not connect
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_, _ = c.Write([]byte("hello"))
	b := make([]byte, 10)
	if n, err := server.Read(b); string(b[:n]) != "hello" {
		t.Errorf("server got %q, %v", b[:n], err)
	}

	if s, err = tree.Socket(1); err != nil || s == nil || !s.Datagram() {
		t.Fatalf("datagram: %+v, %v", s, err)
	}
	d, err := s.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, _ = d.Write([]byte("datagram"))
	if n, err := datagram.Read(b); string(b[:n]) != "datagram" {
		t.Errorf("server got %q, %v", b[:n], err)
	}
	if _, err = tree.Socket(2); !errors.Is(err, ErrSequenced) {
		t.Errorf("sequenced packets: %v", err)
	}
	if s, err = tree.Socket(3); err != nil || s == nil || s.Datagram() {
		t.Fatalf("a socket without a server: %+v, %v", s, err)
	}
	if _, err = s.Dial(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial a socket without a server: %v", err)
	}
	for i := 4; i < 7; i++ {
		if s, err := tree.Socket(i); s != nil || err != nil {
			t.Errorf("source %d is no socket: %+v, %v", i, s, err)
		}
	}
}
