package guest_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// clientName has this test binary be a client of a Unix socket, inside a container.
const clientName = "/client"

// client does what a test asks for at a socket.
func client(what, path string) error {
	switch what {
	case "echo": // sends standard input, says that it is all, and shows the answer
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(c, os.Stdin)
			_ = c.CloseWrite()
		}()
		_, err = io.Copy(os.Stdout, c)
		return err
	case "many": // keeps many connections at once, each with its own words
		return many(path)
	case "lines": // sends each line as a datagram
		c, err := net.Dial("unixgram", path)
		if err != nil {
			return err
		}
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if _, err := c.Write(lines.Bytes()); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("unknown client " + what)
}

func many(path string) error {
	const n = agent.MaxRelayed + 50
	var open, done sync.WaitGroup
	errs := make(chan error, n)
	open.Add(agent.MaxRelayed / 2) // so many at the same time; the others come and go
	for i := range n {
		done.Go(func() {
			c, err := net.Dial("unix", path)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			if i < agent.MaxRelayed/2 {
				open.Done()
				open.Wait()
			}
			want := "words of " + strconv.Itoa(i)
			if _, err := c.Write([]byte(want)); err != nil {
				errs <- err
				return
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				errs <- fmt.Errorf("connection %d: %q, %v", i, got, err)
			}
		})
	}
	done.Wait()
	select {
	case err := <-errs:
		return err
	default:
		println("all answered")
		return nil
	}
}

// withSocket is a container in which the test's client is run at /run/host.sock.
func (f *fixture) withSocket(what string, socket agent.Socket) *agent.CreateContainer {
	f.t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	must(f.t, err)
	must(f.t, os.WriteFile(filepath.Join(f.root, clientName), exe, 0o755))
	// With cgo it is not static, and takes its loader and libraries along: ldd prints their paths.
	path, err := os.Executable()
	must(f.t, err)
	libraries, _ := exec.Command("ldd", path).Output()
	for _, path := range strings.Fields(string(libraries)) {
		if b, err := os.ReadFile(path); filepath.IsAbs(path) && err == nil {
			must(f.t, os.MkdirAll(filepath.Join(f.root, filepath.Dir(path)), 0o755))
			must(f.t, os.WriteFile(filepath.Join(f.root, path), b, 0o755))
		}
	}
	m := f.spec(clientName, what, "/run/host.sock")
	m.Mounts = append(m.Mounts, agent.Mount{Bind: true, Source: "/c/1", Target: "/run/host.sock", Socket: socket})
	return m
}

func connected(c net.Conn) { _, _ = c.Write([]byte{agent.Connected}) }

func TestSocketStream(t *testing.T) {
	f := start(t)
	var ended sync.WaitGroup
	id := f.Serve(func(c net.Conn) { // answers only when the client has said all
		connected(c)
		ended.Add(1)
		defer ended.Done()
		b, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		if len(b) > 1000 {
			b = fmt.Appendf(nil, "%x", sha256.Sum256(b))
		}
		_, _ = c.Write(b)
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	socket := agent.Socket{Kind: agent.StreamSocket, Stream: id, Mode: 0o640, UID: 3, GID: 4}
	for _, in := range []string{"hello", "", strings.Repeat("0123456789abcdef", 1<<17)} {
		want := in
		if len(in) > 1000 {
			want = fmt.Sprintf("%x", sha256.Sum256([]byte(in)))
		}
		if got := f.run(f.withSocket("echo", socket), strings.NewReader(in)); got.stdout != want || got.Status != 0 {
			t.Errorf("%d bytes: status %d, stdout %q, stderr %q", len(in), got.Status, got.stdout, got.stderr)
		}
	}
	ended.Wait()
	m := f.withSocket("", socket)
	m.Process.Args = []string{"stat", "-c", "%F %a %u %g", "/run/host.sock"}
	if got := f.run(m, nil); got.stdout != "socket 640 3 4\n" {
		t.Errorf("the socket's file is %q", got.stdout)
	}
	m = f.withSocket("echo", socket)
	m.Process.UID, m.Process.Capabilities = 1000, agent.Capabilities{}
	if got := f.run(m, nil); got.Status != 1 || !strings.Contains(got.stderr, "permission denied") {
		t.Errorf("a user without permission: %+v", got)
	}
}

func TestSocketMany(t *testing.T) {
	f := start(t)
	id := f.Serve(func(c net.Conn) { connected(c); _, _ = io.Copy(c, c) })
	got := f.run(f.withSocket("many", agent.Socket{Kind: agent.StreamSocket, Stream: id, Mode: 0o777}), nil)
	if got.Status != 0 || got.stderr != "all answered\n" {
		t.Errorf("got %+v", got)
	}
}

// TestSocketEnds has either side go away.
func TestSocketEnds(t *testing.T) {
	f := start(t)
	closed := make(chan error, 1)
	id := f.Serve(func(c net.Conn) {
		connected(c)
		_, err := io.Copy(io.Discard, c)
		closed <- err
	})
	p, err := f.create(f.withSocket("echo", agent.Socket{Kind: agent.StreamSocket, Stream: id, Mode: 0o777}), stdio{stdin: neverEnds{}})
	must(t, err)
	must(t, f.Start("c"))
	time.Sleep(100 * time.Millisecond)
	must(t, p.signal(9))
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the host does not learn that the client is gone")
	}
	_, err = p.Wait(f.ctx)
	must(t, err)
	must(t, f.Delete("c"))

	id = f.Serve(func(c net.Conn) { connected(c); _, _ = io.WriteString(c, "bye") })
	if got := f.run(f.withSocket("echo", agent.Socket{Kind: agent.StreamSocket, Stream: id, Mode: 0o777}), nil); got.stdout != "bye" {
		t.Errorf("a server that goes away: %+v", got)
	}
	id = f.Serve(func(c net.Conn) {})
	if got := f.run(f.withSocket("echo", agent.Socket{Kind: agent.StreamSocket, Stream: id, Mode: 0o777}), nil); got.stdout != "" || got.Status > 1 {
		t.Errorf("a server that is not there: %+v", got)
	}
}

func TestSocketDatagram(t *testing.T) {
	f := start(t)
	got := make(chan string, 10)
	id := f.Serve(func(c net.Conn) {
		var buf []byte
		for range 2 { // then breaks the stream
			var err error
			if buf, err = agent.ReadDatagram(c, buf); err != nil {
				return
			}
			got <- string(buf)
		}
	})
	m := f.withSocket("lines", agent.Socket{Kind: agent.DatagramSocket, Stream: id, Mode: 0o777})
	if r := f.run(m, strings.NewReader("READY=1\n\n")); r.Status != 0 {
		t.Fatalf("got %+v", r)
	}
	for _, want := range []string{"READY=1", ""} {
		select {
		case s := <-got:
			if s != want {
				t.Errorf("datagram %q, want %q", s, want)
			}
		default: // they arrive before the end of who sent them
			t.Fatalf("no datagram %q", want)
		}
	}
}

func TestSocketErrors(t *testing.T) {
	f := start(t)
	m := f.withSocket("echo", agent.Socket{Kind: 9})
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "unknown kind of socket") {
		t.Errorf("got %v", err)
	}
	m = f.withSocket("echo", agent.Socket{Kind: agent.StreamSocket})
	m.Mounts[len(m.Mounts)-1].Target = "/etc"
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a socket on a directory: %v", err)
	}
	for range agent.MaxSockets {
		m.Mounts = append(m.Mounts, m.Mounts[len(m.Mounts)-1])
	}
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "65 mounts of sockets: at most 64") {
		t.Errorf("got %v", err)
	}
	// As many as possible, and a terminal: their descriptors come in one message.
	m = f.withSocket("echo", agent.Socket{Kind: agent.StreamSocket, Stream: f.Serve(func(net.Conn) {})})
	last := m.Mounts[len(m.Mounts)-1]
	for i := range agent.MaxSockets - 1 {
		last.Target = "/run/" + strconv.Itoa(i)
		m.Mounts = append(m.Mounts, last)
	}
	m.Process.Args, m.Process.Terminal = []string{"sh", "-c", "ls /run | wc -l"}, true
	s := newScreen(t)
	p, err := f.create(m, stdio{console: s})
	must(t, err)
	must(t, f.Start("c"))
	_, err = p.Wait(f.ctx)
	must(t, err)
	p.out.Wait()
	if !bytes.Contains(s.shown.Bytes(), []byte("64")) {
		t.Errorf("shown: %q", s.shown.String())
	}
}
