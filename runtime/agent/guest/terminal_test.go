package guest_test

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// screen is the host's end of a terminal: what was shown, and what is typed.
type screen struct {
	mu    sync.Mutex
	shown bytes.Buffer
	keys  *os.File // a pipe, so that typing never waits for a process that has ended
	typed *os.File
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	s := &screen{}
	var err error
	s.keys, s.typed, err = os.Pipe()
	must(t, err)
	t.Cleanup(func() { s.keys.Close(); s.typed.Close() })
	return s
}

func (s *screen) Read(p []byte) (int, error) { return s.keys.Read(p) }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) wait(t *testing.T, text string) {
	t.Helper()
	for range 500 {
		if strings.Contains(s.text(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q on the terminal: %q", text, s.text())
}

func (s *screen) press(t *testing.T, keys string) {
	t.Helper()
	_, err := io.WriteString(s.typed, keys)
	must(t, err)
}

func (f *fixture) terminal(args ...string) *agent.CreateContainer {
	m := f.spec(args...)
	m.Process.Terminal, m.Process.Rows, m.Process.Cols = true, 33, 99
	return m
}

// A shell's read ends without a line when a trapped signal comes, so the loop tells that from the end of the input.
func TestTerminal(t *testing.T) {
	f := start(t)
	s := newScreen(t)
	p, err := f.create(f.terminal("sh", "-c", `stty size; tty; echo $TERM; ls -l /dev/console | grep -c '136,'
		[ -c /dev/ptmx ] && trap 'stty size; resized=1' WINCH; echo ready
		while read x || [ "$resized" ]; do resized=; echo "got $x"; done; echo end`), stdio{console: s})
	must(t, err)
	must(t, f.Start("c"))
	s.wait(t, "33 99\r\n/dev/pts/0\r\nxterm\r\n1\r\nready\r\n")
	s.press(t, "hello\n")
	s.wait(t, "hello\r\ngot hello\r\n") // echoed by the line discipline
	must(t, f.Resize(&agent.Resize{ID: "c", Rows: 40, Cols: 120}))
	s.press(t, "again\n")
	s.wait(t, "40 120\r\n")
	s.press(t, "\x04") // Ctrl-D
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	p.out.Wait()
	if !strings.HasSuffix(s.text(), "end\r\n") {
		t.Errorf("on the terminal: %q", s.text())
	}
}

func TestTerminalInterrupt(t *testing.T) {
	f := start(t)
	s := newScreen(t)
	p, err := f.create(f.terminal("sh", "-c", "trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.05; done"), stdio{console: s})
	must(t, err)
	must(t, f.Start("c"))
	s.wait(t, "ready")
	s.press(t, "\x03")
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 9 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestTerminalHangUp(t *testing.T) {
	f := start(t)
	s := newScreen(t)
	p, err := f.create(f.terminal("sh", "-c", "trap 'exit 3' HUP; echo ready; while :; do sleep 0.05; done"), stdio{console: s})
	must(t, err)
	must(t, f.Start("c"))
	s.wait(t, "ready")
	s.typed.Close()
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestTerminalOfExec(t *testing.T) {
	f := start(t)
	init, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	s := newScreen(t)
	p := f.process("sh", "-c", "stty size; tty; id -u; exit 8")
	p.Terminal, p.Rows, p.Cols, p.UID = true, 10, 20, 1000
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: p}, stdio{console: s})
	must(t, err)
	if got, err := e.Wait(f.ctx); err != nil || got.Status != 8 {
		t.Errorf("%+v, %v", got, err)
	}
	e.out.Wait()
	if s.text() != "10 20\r\n/dev/pts/0\r\n1000\r\n" {
		t.Errorf("on the terminal: %q", s.text())
	}
	must(t, init.signal(9))
	_, err = init.Wait(f.ctx)
	must(t, err)
	wantError(t, f.Resize(&agent.Resize{ID: "c", Rows: 1, Cols: 1}), agent.Invalid, "the process has no terminal")
}

func TestTerminalWithoutDevpts(t *testing.T) {
	f := start(t)
	m := f.terminal("true")
	m.Mounts = m.Mounts[:2]
	_, err := f.create(m, stdio{})
	if err == nil || !strings.Contains(err.Error(), "/dev/pts") {
		t.Errorf("got %v", err)
	}
}
