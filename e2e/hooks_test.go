package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/testhost/need"
)

//lint:file-ignore SA1019 prestart hooks are deprecated, and carried out

// noteScript is a hook that appends a line of JSON to the file $1. Host and guest have its programs.
const noteScript = `#!/bin/sh
state=$(cat)
case "$state" in *'"pid":'*) pid=${state#*'"pid":'}; pid=${pid%%[,\}]*};; *) pid=0;; esac
echo "{\"name\":\"$2\",\"dir\":\"$(pwd)\",\"env\":\"$HOOK $STRAY\",\"host\":\"$(cat /proc/sys/kernel/hostname)\",\"cgroup\":\"$(tr '\n' ' ' </proc/$pid/cgroup)\",\"net\":\"$(ls -l /proc/self/ns/net)\",\"mnt\":\"$(ls -l /proc/self/ns/mnt)\",\"state\":$state}" >>"$1"
`

// note is one line of it.
type note struct {
	Name, Dir, Env, Host, Cgroup, Net, Mnt string
	State                                  specs.State
}

var hookNames = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// hookBundle makes a bundle with two hooks of each kind, which note that they run, for a process that runs script. The
// file that they write to is in the root file system, where those of the guest find it, too.
func (r *rt) hookBundle(edit func(*specs.Spec), script string) (bundle string) {
	r.t.Helper()
	bundle = r.bundle(nil, "/bin/sh", "-c", script)
	rootfs := filepath.Join(bundle, "rootfs")
	writeFile(r.t, filepath.Join(rootfs, "hook"), noteScript)
	if err := os.Chmod(filepath.Join(rootfs, "hook"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.configure(bundle, func(s *specs.Spec) {
		s.Annotations = map[string]string{"org.example": "x", cpusAnnotation: "1"}
		s.Hostname = "incontainer"
		two := func(kind string) (list []specs.Hook) {
			for _, name := range []string{kind, kind + "2"} {
				hook := specs.Hook{Path: rootfs + "/hook", Args: []string{"zero", rootfs + "/log", name}, Env: []string{"HOOK=" + name, "PATH=/bin:/usr/bin"}}
				if kind == "startContainer" {
					hook.Path, hook.Args[1] = "/hook", "/log"
				}
				list = append(list, hook)
			}
			return list
		}
		s.Hooks = &specs.Hooks{
			Prestart: two("prestart"), CreateRuntime: two("createRuntime"), CreateContainer: two("createContainer"),
			StartContainer: two("startContainer"), Poststart: two("poststart"), Poststop: two("poststop"),
		}
		if edit != nil {
			edit(s)
		}
	}, "/bin/sh", "-c", script)
	return bundle
}

// notes reads what hooks wrote, and forgets it.
func notes(t *testing.T, bundle string) (list []note) {
	t.Helper()
	path := filepath.Join(bundle, "rootfs/log")
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var n note
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		list = append(list, n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return list
}

func noteNames(list []note) (out []string) {
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

// twice are the names that the hooks of some kinds note.
func twice(kinds ...string) (out []string) {
	for _, k := range kinds {
		out = append(out, k, k+"2")
	}
	return out
}

func wantNotes(t *testing.T, bundle string, kinds ...string) []note {
	t.Helper()
	list := notes(t, bundle)
	if d := cmp.Diff(twice(kinds...), noteNames(list)); d != "" {
		t.Errorf("hooks that have run: %s", d)
	}
	return list
}

// pidOf reads a container's pid.
func (r *rt) pidOf(id string) int {
	r.t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(r.run("state", id).out), &s); err != nil {
		r.t.Fatal(err)
	}
	return s.Pid
}

func links(t *testing.T, pid int) (net, mnt string) {
	t.Helper()
	for name, to := range map[string]*string{"net": &net, "mnt": &mnt} {
		var err error
		if *to, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name)); err != nil {
			t.Fatal(err)
		}
	}
	return net, mnt
}

// TestHooks follows a container through its life with hooks of all kinds.
func TestHooks(t *testing.T) {
	r := newRuntime(t)
	t.Setenv("STRAY", "1")
	check := r.leftovers(t)
	id := r.id()
	bundle := r.hookBundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "/hooks-" + id }, "echo running >>/log.txt; exec sleep 1000")
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	list := wantNotes(t, bundle, "prestart", "createRuntime", "createContainer")
	pid := r.pidOf(id)
	ourNet, ourMnt := links(t, os.Getpid())
	net, mnt := links(t, pid)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	expect := func(n note, status specs.ContainerState, pid int, dir, host, net, mnt string) {
		t.Helper()
		want := specs.State{
			Version: n.State.Version, ID: id, Status: status, Pid: pid, Bundle: bundle, Annotations: map[string]string{"org.example": "x", cpusAnnotation: "1"},
		}
		if d := cmp.Diff(want, n.State); d != "" {
			t.Errorf("%s: state: %s", n.Name, d)
		}
		if n.Dir != dir || n.Env != n.Name+" " || n.Host != host || !strings.Contains(n.Net, net) || !strings.Contains(n.Mnt, mnt) {
			t.Errorf("%s: %+v; want directory %s, host %s, namespaces %s and %s", n.Name, n, dir, host, net, mnt)
		}
	}
	for _, n := range list[:4] {
		expect(n, specs.StateCreating, pid, bundle, host, ourNet, ourMnt)
		if !strings.Contains(n.Cgroup, "/hooks-"+id) {
			t.Errorf("%s: the monitor's cgroup is %q", n.Name, n.Cgroup)
		}
	}
	for _, n := range list[4:] {
		expect(n, specs.StateCreating, 1, filepath.Join(bundle, "rootfs"), "incontainer", net, mnt)
	}
	r.run("start", id).want(t, 0, "", "")
	list = wantNotes(t, bundle, "startContainer", "poststart")
	for _, n := range list[:2] {
		expect(n, specs.StateCreated, 1, "/", "incontainer", "", "")
		if n.Cgroup != "0::/ " { // in the guest's cgroup namespace; the numbers of namespaces may be equal by chance
			t.Errorf("%s runs on the host: its cgroup is %q", n.Name, n.Cgroup)
		}
	}
	for _, n := range list[2:] {
		expect(n, specs.StateRunning, pid, bundle, host, ourNet, ourMnt)
	}
	r.run("exec", id, "/bin/true").want(t, 0, "", "")
	r.run("kill", id, "KILL").want(t, 0, "", "")
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
	for _, n := range wantNotes(t, bundle, "poststop") {
		expect(n, specs.StateStopped, 0, bundle, host, ourNet, ourMnt)
	}
	check()
}

// TestHooksUnderRunc has runc run the same hooks. It runs poststart with create, as old versions of it do, and poststop
// in its caller's directory.
func TestHooksUnderRunc(t *testing.T) {
	r := newRuntime(t)
	runc := need.Program(t, "runc", "runc")
	bundle := r.hookBundle(nil, "exit 7")
	id := r.id()
	life := func(command func(args ...string) *exec.Cmd) (out []note) {
		for _, args := range [][]string{{"create", "--bundle", bundle, id}, {"start", id}} {
			finish(t, command(args...), nil).want(t, 0, "", "")
		}
		for range 600 {
			if strings.Contains(finish(t, command("state", id), nil).out, `"stopped"`) {
				break
			}
		}
		finish(t, command("delete", id), nil).want(t, 0, "", "")
		for _, n := range notes(t, bundle) {
			switch {
			case strings.HasPrefix(n.Name, "poststart"):
				continue
			case strings.HasPrefix(n.Name, "poststop"):
				n.Dir = ""
			case strings.HasPrefix(n.Name, "createContainer"):
				n.Host = "" // which runc has not given its name yet
			}
			n.State.Version, n.Cgroup, n.Net, n.Mnt = "", "", "", ""
			if n.State.Pid > 1 {
				n.State.Pid = 2
			}
			out = append(out, n)
		}
		return out
	}
	theirs := life(func(args ...string) *exec.Cmd {
		return exec.Command(runc, append([]string{"--root", filepath.Join(r.dir, "runc")}, args...)...)
	})
	ours := life(r.command)
	if d := cmp.Diff(theirs, ours); d != "" || len(ours) != 10 {
		t.Errorf("runc (-) and govmm-run (+): %s", d)
	}
}

// TestHookFailures has the second hook of each kind fail in turn.
func TestHookFailures(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	fail := func(h *specs.Hook) {
		*h = specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}}
	}
	text := func(kind string) string {
		return "error running " + kind + ` hook #1: exit status 3, stdout: out\n, stderr: err\n`
	}
	for i, tt := range []struct {
		second func(*specs.Hooks) *specs.Hook
		failed string // the call
	}{
		{func(h *specs.Hooks) *specs.Hook { return &h.Prestart[1] }, "create"},
		{func(h *specs.Hooks) *specs.Hook { return &h.CreateRuntime[1] }, "create"},
		{func(h *specs.Hooks) *specs.Hook { return &h.CreateContainer[1] }, "create"},
		{func(h *specs.Hooks) *specs.Hook { return &h.StartContainer[1] }, "start"},
		{func(h *specs.Hooks) *specs.Hook { return &h.Poststart[1] }, "start"},
	} {
		kind, id := hookNames[i], r.id()
		bundle := r.hookBundle(func(s *specs.Spec) { fail(tt.second(s.Hooks)) }, "exec sleep 1000")
		want := append(twice(hookNames[:i]...), kind)
		create := r.run("create", "--bundle", bundle, id)
		if tt.failed == "create" {
			create.want(t, 1, "", text(kind))
			r.run("state", id).want(t, 1, "", "container does not exist")
		} else {
			create.want(t, 0, "", "")
			r.run("start", id).want(t, 1, "", text(kind))
			r.waitStatus(id, "stopped")
			if got := noteNames(notes(t, bundle)); !slices.Equal(got, want) {
				t.Errorf("%s fails: hooks %q, want %q", kind, got, want)
			}
			want = nil
			r.run("delete", id).want(t, 0, "", "")
		}
		want = append(want, twice("poststop")...)
		if got := noteNames(notes(t, bundle)); !slices.Equal(got, want) {
			t.Errorf("%s fails: hooks %q, want %q", kind, got, want)
		}
		check()
	}
}

// TestRunHooks has run go the whole way, and meet a hook that fails.
func TestRunHooks(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	bundle := r.hookBundle(nil, "exit 7")
	r.run("run", "--bundle", bundle, r.id()).want(t, 7, "", "")
	wantNotes(t, bundle, hookNames...)
	check()
	bundle = r.hookBundle(func(s *specs.Spec) { s.Hooks.Poststart[0].Path = "/bin/false" }, "exec sleep 1000")
	r.run("run", "--bundle", bundle, r.id()).want(t, 1, "", "error running poststart hook #0: exit status 1")
	wantNotes(t, bundle, "prestart", "createRuntime", "createContainer", "startContainer", "poststop")
	check()
	bundle = r.hookBundle(func(s *specs.Spec) { s.Hooks.Poststop[0].Path = "/bin/false" }, "exit 7")
	r.run("run", "--bundle", bundle, r.id()).want(t, 7, "", "error running poststop hook #0: exit status 1")
	if got := noteNames(notes(t, bundle)); len(got) != 11 || got[10] != "poststop2" {
		t.Errorf("hooks %q", got)
	}
	check()
}

// TestHookTimeouts has hooks of host and guest overrun.
func TestHookTimeouts(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	one := 1
	slow := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000 & sleep 1000"}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: &one}
	id := r.id()
	bundle := r.hookBundle(func(s *specs.Spec) { s.Hooks.CreateRuntime[1] = slow }, "exec sleep 1000")
	r.run("create", "--bundle", bundle, id).want(t, 1, "", "error running createRuntime hook #1: hook ran past specified timeout of 1.0s")
	check()
	bundle = r.hookBundle(func(s *specs.Spec) { s.Hooks.StartContainer[1] = slow }, "exec sleep 1000")
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("start", id).want(t, 1, "", "error running startContainer hook #1: hook ran past specified timeout of 1.0s")
	r.run("delete", "--force", id).want(t, 0, "", "")
	check()
}

// TestPoststopAfterKill kills the monitor, and a container whose startContainer hook runs.
func TestPoststopAfterKill(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	bundle := r.hookBundle(nil, "exec sleep 1000")
	id := r.id()
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	if err := syscall.Kill(r.pidOf(id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
	wantNotes(t, bundle, hookNames...)
	check()

	bundle = r.hookBundle(func(s *specs.Spec) {
		s.Hooks.StartContainer[1] = specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}
	}, "exec sleep 1000")
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	start := r.command("start", id)
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if strings.Contains(r.run("ps", id).out, "sleep 1000") {
			break
		}
	}
	r.run("delete", "--force", id).want(t, 0, "", "")
	if err := start.Wait(); err == nil {
		t.Log("start was told that the process has started: it was killed on the way")
	}
	if got := noteNames(notes(t, bundle)); !slices.Equal(got[len(got)-2:], twice("poststop")) || slices.Contains(got, "poststart2") {
		t.Errorf("hooks %q", got)
	}
	check()
}

// TestNamespaces joins namespaces of another process and shifts clocks.
func TestNamespaces(t *testing.T) {
	r := newRuntime(t)
	other := exec.Command("sh", "-c", "echo stranger >/proc/sys/kernel/hostname; exec sleep 1000")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	const days = 11 * 86400
	bundle := r.bundle(func(s *specs.Spec) {
		s.Hostname = ""
		for i, ns := range s.Linux.Namespaces {
			if link, ok := map[specs.LinuxNamespaceType]string{"network": "net", "uts": "uts", "ipc": "ipc", "pid": "pid"}[ns.Type]; ok {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", other.Process.Pid, link)
			}
		}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: days}, "monotonic": {Secs: 1}}
	}, "/bin/sh", "-c", "hostname; cat /proc/uptime; exec sleep 1000")
	id := r.id()
	out := outputFile(t)
	defer out.Close()
	create := r.command("create", "--bundle", bundle, id)
	create.Stdout, create.Stderr = out, out
	if err := create.Run(); err != nil {
		t.Fatalf("%v: %s", err, contents(t, out))
	}
	r.run("start", id).want(t, 0, "", "")
	res := r.run("exec", id, "/bin/cat", "/proc/uptime")
	res.want(t, 0, "", "")
	r.run("ps", id).want(t, 0, "sleep 1000", "")
	r.run("delete", "--force", id).want(t, 0, "", "")
	lines := strings.Split(contents(t, out), "\n")
	if len(lines) != 3 || lines[0] != "stranger" {
		t.Fatalf("output %q", lines)
	}
	for _, text := range []string{lines[1], res.out} {
		first, _, _ := strings.Cut(text, " ")
		if up, err := strconv.ParseFloat(first, 64); err != nil || up < days || up > days+600 {
			t.Errorf("uptime %q, want some more than %d", text, days)
		}
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
}
