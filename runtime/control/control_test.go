package control

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The state directory's path is longer than sun_path allows.
func TestCallWithFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-", 30), strings.Repeat("x", 64))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- serveOne(t, l.AcceptUnix, NewConn) }()

	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := strings.Repeat("v", 1<<20)
	reply, err := c.Call(Request{Op: OpExec, Process: &specs.Process{Env: []string{big}}}, w)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got, _ := io.ReadAll(r); string(got) != "through the pipe" {
		t.Errorf("pipe carried %q", got)
	}
	if reply.Status != len(big) {
		t.Errorf("the server saw %d bytes of environment, want %d", reply.Status, len(big))
	}
	c.Close()
	if err := <-served; err != io.EOF {
		t.Errorf("server ended with %v, want EOF", err)
	}
}

func serveOne[U any](t *testing.T, accept func() (U, error), wrap func(U) *Conn) error {
	u, err := accept()
	if err != nil {
		return err
	}
	s := wrap(u)
	defer s.Close()
	var req Request
	if err := s.Receive(&req); err != nil {
		return err
	}
	files := s.Files()
	if len(files) != 1 {
		t.Errorf("got %d files, want 1", len(files))
	}
	for _, f := range files {
		_, _ = f.WriteString("through the pipe")
		f.Close()
	}
	if err := s.Send(Reply{Status: len(req.Process.Env[0])}); err != nil {
		return err
	}
	return s.Receive(&req)
}

// TestPeerDiesUnread has the other side die with something unread, which resets the connection: an error like any other.
func TestPeerDiesUnread(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(Request{Op: OpPS}); err != nil {
		t.Fatal(err)
	}
	l.Close() // with the connection and the request in its backlog
	var reply Reply
	if err := c.Receive(&reply); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("receive: %v, want %v", err, unix.ECONNRESET)
	}
}
