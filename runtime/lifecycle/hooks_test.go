package lifecycle

//lint:file-ignore SA1019 prestart hooks are deprecated, and carried out

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
)

// note is a hook that appends a line of JSON to a file: what it read, and its namespaces, directory and process ids.
func note(log, name string) specs.Hook {
	const script = `state=$(cat)
for n in mnt pid net ipc uts; do ns="$ns $(readlink /proc/self/ns/$n)"; done
echo "{\"name\": \"$1\", \"dir\": \"$(pwd)\", \"ns\": \"$ns\", \"env\": \"$HOOK\", \"state\": $state}" >>"$0"`
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script, log, name}, Env: []string{"HOOK=" + name, "PATH=/bin:/usr/bin"}}
}

type noted struct {
	Name, Dir, NS, Env string
	State              specs.State
}

func notes(t *testing.T, log string) (list []noted) {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(bytes.NewReader(b)); dec.More(); {
		var n noted
		if err := dec.Decode(&n); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		list = append(list, n)
	}
	return list
}

func names(list []noted) string {
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return strings.Join(out, " ")
}

func namespaces(t *testing.T, pid int) (out string) {
	t.Helper()
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			t.Fatal(err)
		}
		out += " " + to
	}
	return out
}

// withHooks gives a host's config all hooks of create and delete; each notes its name in the file that is returned.
func withHooks(t *testing.T, edit func(*specs.Spec)) (*host, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	h := newHost(t, idle, func(s *specs.Spec) {
		s.Annotations["org.example"] = "x"
		s.Hooks = &specs.Hooks{
			Prestart:        []specs.Hook{note(log, "prestart"), note(log, "prestart2")},
			CreateRuntime:   []specs.Hook{note(log, "createRuntime")},
			CreateContainer: []specs.Hook{note(log, "createContainer"), note(log, "createContainer2")},
			Poststop:        []specs.Hook{note(log, "poststop"), note(log, "poststop2")},
		}
		if edit != nil {
			edit(s)
		}
	})
	return h, log
}

// TestCreateHooks runs a create up to the guest's boot and ends it: its hooks have run, and those after its end, too.
func TestCreateHooks(t *testing.T) {
	h, log := withHooks(t, nil)
	c := h.startCreate("c", "", nil)
	pid := c.waitMonitor()
	before := notes(t, log)
	if got := names(before); got != "prestart prestart2 createRuntime createContainer createContainer2" {
		t.Fatalf("hooks of create: %s", got)
	}
	ours, theirs := namespaces(t, os.Getpid()), namespaces(t, pid)
	for _, n := range before {
		if n.Env != n.Name || n.State.Status != specs.StateCreating || n.State.ID != "c" || n.State.Bundle != h.bundle ||
			n.State.Annotations["org.example"] != "x" || n.State.Version != specs.Version {
			t.Errorf("%+v", n)
		}
		ns, dir, seen := ours, h.bundle, pid
		if strings.HasPrefix(n.Name, "createContainer") {
			ns, dir, seen = theirs, filepath.Join(h.bundle, "rootfs"), 1
		}
		if n.NS != ns || n.Dir != dir || n.State.Pid != seen {
			t.Errorf("%s: namespaces %s in %s, pid %d; want %s in %s, pid %d", n.Name, n.NS, n.Dir, n.State.Pid, ns, dir, seen)
		}
	}
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.end()
	h.nothingLeft("c")
	after := notes(t, log)[len(before):]
	if got := names(after); got != "poststop poststop2" {
		t.Fatalf("hooks after a create that failed: %s", got)
	}
	for _, n := range after {
		if n.State.Status != specs.StateStopped || n.State.Pid != 0 || n.NS != ours || n.Dir != h.bundle {
			t.Errorf("%+v", n)
		}
	}
}

// TestHookFails has each hook of create fail in turn.
func TestHookFails(t *testing.T) {
	fail := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}}
	for _, tt := range []struct {
		kind string
		edit func(*specs.Hooks)
		ran  string
	}{
		{"prestart hook #1", func(h *specs.Hooks) { h.Prestart[1] = fail }, "prestart poststop poststop2"},
		{"createRuntime hook #0", func(h *specs.Hooks) { h.CreateRuntime[0] = fail }, "prestart prestart2 poststop poststop2"},
		{"createContainer hook #1", func(h *specs.Hooks) { h.CreateContainer[1] = fail }, "prestart prestart2 createRuntime createContainer poststop poststop2"},
	} {
		h, log := withHooks(t, func(s *specs.Spec) { tt.edit(s.Hooks) })
		status, text := h.startCreate("c", "", nil).end()
		want := "unable to start container process: error running " + tt.kind + ": exit status 3, stdout: out\n, stderr: err\n\n"
		if status != 1 || text != want {
			t.Errorf("status %d, %q; want %q", status, text, want)
		}
		if got := names(notes(t, log)); got != tt.ran {
			t.Errorf("%s fails: hooks %s, want %s", tt.kind, got, tt.ran)
		}
		h.nothingLeft("c")
	}
}

// TestHookMounts has a hook mount something where only engines would see it.
func TestHookMounts(t *testing.T) {
	for _, script := range []string{
		"mkdir -p sub; mount -t tmpfs tmpfs sub",           // createContainer's directory is the root file system
		"mount -t tmpfs tmpfs \"$(pwd)\"; cd /; sleep 0.1", // over all of it
	} {
		h, _ := withHooks(t, func(s *specs.Spec) {
			s.Hooks.CreateContainer = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin:/sbin"}}}
		})
		status, text := h.startCreate("c", "", nil).end()
		if status != 1 || !strings.Contains(text, "a hook mounted something on /") {
			t.Errorf("%s: status %d, %q", script, status, text)
		}
		h.nothingLeft("c")
	}
	// As nvidia's does: through the pid that it is told.
	h, _ := withHooks(t, func(s *specs.Spec) {
		script := `pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/'); nsenter -t $pid -m mount -t tmpfs tmpfs "$(pwd)/rootfs/dev"`
		s.Hooks.CreateRuntime = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin:/sbin"}}}
	})
	status, text := h.startCreate("c", "", nil).end()
	if status != 1 || !strings.Contains(text, "a hook mounted something on /dev of the container") {
		t.Errorf("status %d, %q", status, text)
	}
	h.nothingLeft("c")
}

// TestInterruptedInHook ends create, and its monitor, while a hook of each side runs.
func TestInterruptedInHook(t *testing.T) {
	for _, kind := range []string{"createRuntime", "createContainer"} {
		for _, victim := range []string{"create", "monitor"} {
			h, log := withHooks(t, func(s *specs.Spec) {
				slow := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000.25"}}}
				if kind == "createRuntime" {
					s.Hooks.CreateRuntime = slow
				} else {
					s.Hooks.CreateContainer = slow
				}
			})
			c := h.startCreate("c", "", nil)
			within(t, 20*time.Second, "the hook", func() bool { return len(withArgs(t, "sleep\x001000.25\x00")) == 1 })
			sleeper := withArgs(t, "sleep\x001000.25\x00")
			pid, s := c.Process.Pid, unix.SIGTERM
			if victim == "monitor" {
				pid, s = monitors(t, "c")[0], unix.SIGKILL
			}
			if err := unix.Kill(pid, s); err != nil {
				t.Fatal(err)
			}
			if victim == "monitor" && kind == "createRuntime" {
				// Nothing tells create before the hook has ended.
				if err := unix.Kill(sleeper[0], unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if status, text := c.end(); status != 1 {
				t.Errorf("%s killed in %s: status %d, %q", victim, kind, status, text)
			}
			within(t, 5*time.Second, "the hook's end", func() bool { return len(withArgs(t, "sleep\x001000.25\x00")) == 0 })
			if got := names(notes(t, log)); !strings.HasSuffix(got, "poststop poststop2") {
				t.Errorf("%s killed in %s: hooks %s", victim, kind, got)
			}
			h.nothingLeft("c")
		}
	}
}

// withArgs lists the processes with a command line.
func withArgs(t *testing.T, cmdline string) (pids []int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if b, err := os.ReadFile(dir + "/cmdline"); err == nil && string(b) == cmdline {
			var pid int
			if _, err := fmt.Sscanf(dir, "/proc/%d", &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestCreateKilledInHook kills create in a hook of its own, which ends with it. The poststop hooks run when the container
// is deleted, or its id taken again.
func TestCreateKilledInHook(t *testing.T) {
	h, log := withHooks(t, func(s *specs.Spec) {
		s.Hooks.CreateRuntime = []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000.5"}}}
	})
	for i := range 2 {
		c := h.startCreate("c", "", nil)
		within(t, 20*time.Second, "the hook", func() bool { return len(withArgs(t, "sleep\x001000.5\x00")) == 1 })
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.end()
		within(t, 5*time.Second, "the hook's end", func() bool { return len(withArgs(t, "sleep\x001000.5\x00")) == 0 })
		within(t, 5*time.Second, "the monitor's end", func() bool { return len(monitors(t, "c")) == 0 })
		if got := strings.Count(names(notes(t, log)), "poststop2"); got != i {
			t.Errorf("round %d: poststop hooks ran %d times", i, got)
		}
	}
	if err := h.Delete("c", false); err != nil {
		t.Error(err)
	}
	if got := strings.Count(names(notes(t, log)), "poststop2"); got != 2 {
		t.Errorf("poststop hooks ran %d times, want once for each create", got)
	}
	h.nothingLeft("c")
}

// TestPoststop deletes containers whose monitors were killed: their hooks run all the same, whatever they do.
func TestPoststop(t *testing.T) {
	r := newRuntime(t)
	var warned bytes.Buffer
	r.Log = slog.New(slog.NewTextHandler(&warned, nil))
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	one := 1
	for _, bundle := range []string{dir, filepath.Join(dir, "gone")} {
		monitor := r.deaf(t, "c", func(s *container.State) {
			s.Started, s.Bundle = true, bundle
			s.Hooks = &specs.Hooks{Poststop: []specs.Hook{
				{Path: "/bin/false"}, {Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one}, note(log, "poststop"),
			}}
		})
		if err := monitor.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = monitor.Wait()
		if err := r.Delete("c", false); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"poststop hook #0: exit status 1", "poststop hook #1: hook ran past specified timeout of 1.0s"} {
			if !strings.Contains(warned.String(), want) {
				t.Errorf("no warning with %q: %s", want, warned.String())
			}
		}
		warned.Reset()
	}
	list := notes(t, log)
	if names(list) != "poststop poststop" || list[0].Dir != dir || list[1].Dir != "/" || list[0].State.Pid != 0 || list[0].State.Status != specs.StateStopped {
		t.Errorf("%+v", list)
	}
}
