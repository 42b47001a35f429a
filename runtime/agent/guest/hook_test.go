package guest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

func hook(script string) agent.Hook {
	return agent.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script, "zero", "one"}, Env: []string{"A=1"}}
}

// TestHooks runs two hooks, which are the process in everything but their program.
func TestHooks(t *testing.T) {
	f := start(t)
	must(t, os.Chmod(filepath.Join(f.root, "tmp"), 0o777))
	m := f.spec("sh", "-c", "echo program >>/tmp/log; cat /tmp/log")
	m.Process.UID, m.Process.Cwd = 1000, "/tmp"
	m.Process.Env = append(m.Process.Env, "SECRET=1")
	m.Process.Capabilities = agent.Capabilities{}
	m.HookState = `{"status":"created"}`
	m.Hooks = []agent.Hook{
		hook(`exec >>/tmp/log; echo "first $0 $1 $(/bin/cat)"; /bin/pwd; /bin/id -u; echo "[$(/bin/cat /proc/$$/environ)]"; echo $$; /bin/grep CapEff: /proc/self/status; /bin/sleep 1000 &`),
		hook(`exec >>/tmp/log; echo "second $(/bin/cat)"; echo noise; echo noise >&2`),
		{Path: "/bin/true"},
	}
	m.Hooks[0].Seconds = 60
	p, err := f.create(m, stdio{})
	must(t, err)
	if _, err := os.Stat(filepath.Join(f.root, "tmp/log")); err == nil {
		t.Error("a hook ran before start")
	}
	must(t, f.Start("c"))
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	b, err := os.ReadFile(filepath.Join(f.root, "tmp/log"))
	must(t, err)
	lines := strings.Split(string(b), "\n")
	if len(lines) != 10 {
		t.Fatalf("log %q", lines)
	}
	if lines[4] == "1" {
		t.Error("the hook is the process")
	}
	lines[4] = "pid"
	want := []string{
		`first zero one {"status":"created"}`, "/tmp", "1000", "[A=1]", "pid", "CapEff:\t0000000000000000",
		`second {"status":"created"}`, "noise", "program", "",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
}

func TestHookFailures(t *testing.T) {
	f := start(t)
	slow := hook("/bin/sleep 1000 & /bin/sleep 1000")
	slow.Seconds = 1
	for _, tt := range []struct {
		hook agent.Hook
		want string
	}{
		{hook("echo out; echo err >&2; exit 3"), "error running startContainer hook #1: exit status 3, stdout: out\n, stderr: err\n"},
		{hook("kill -9 $$"), "error running startContainer hook #1: signal: killed, stdout: , stderr: "},
		{agent.Hook{Path: "/nope"}, "error running startContainer hook #1: fork/exec /nope: no such file or directory"},
		{slow, "error running startContainer hook #1: hook ran past specified timeout of 1.0s"},
	} {
		m := f.spec("touch", "/tmp/program")
		m.Hooks = []agent.Hook{hook("exit 0"), tt.hook, hook("echo >/tmp/program")}
		p, err := f.create(m, stdio{})
		must(t, err)
		wantError(t, f.Start("c"), agent.Failed, tt.want)
		if err := f.Start("c"); err == nil {
			t.Errorf("%q: it starts a second time", tt.want)
		}
		if e, err := p.Wait(f.ctx); err != nil || e.Status != 1 {
			t.Errorf("%q: %+v, %v", tt.want, e, err)
		}
		if _, err := os.Stat(filepath.Join(f.root, "tmp/program")); err == nil {
			t.Errorf("%q: the next hook or the program ran", tt.want)
		}
		must(t, f.Delete("c"))
	}
}

// TestKilledInHook kills a container while its hook runs.
func TestKilledInHook(t *testing.T) {
	f := start(t)
	m := f.spec("true")
	m.Hooks = []agent.Hook{hook("echo >/tmp/runs; exec /bin/sleep 1000")}
	p, err := f.create(m, stdio{})
	must(t, err)
	started := make(chan error, 1)
	go func() { started <- f.Start("c") }()
	for {
		if _, err := os.Stat(filepath.Join(f.root, "tmp/runs")); err == nil {
			break
		}
		must(t, f.ctx.Err())
	}
	must(t, p.signal(uint8(unix.SIGKILL)))
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 137 {
		t.Errorf("%+v, %v", e, err)
	}
	<-started
}
