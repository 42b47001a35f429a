package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const forever = "trap 'exit 3' TERM; while :; do sleep 0.1; done"

// TestCreatedContainer does to a container that was never started what is allowed.
func TestCreatedContainer(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, bundle := r.id(), r.sh(forever)
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("exec", id, "/bin/echo", "early").want(t, 0, "early\n", "")
	r.run("pause", id).want(t, 0, "", "")
	r.run("state", id).want(t, 0, `"status": "paused"`, "")
	r.run("start", id).want(t, 1, "", "cannot start a container in the paused state")
	r.run("resume", id).want(t, 0, "", "")
	r.run("state", id).want(t, 0, `"status": "created"`, "")
	r.run("start", id).want(t, 0, "", "")
	r.run("delete", "--force", id).want(t, 0, "", "")
	for _, signal := range []string{"15", "KILL"} {
		r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
		r.run("kill", id, signal).want(t, 0, "", "")
		r.waitStatus(id, "stopped")
		r.run("start", id).want(t, 1, "", "cannot start a container that has stopped")
		r.run("delete", id).want(t, 0, "", "")
	}
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("delete", id).want(t, 0, "", "")
	check()
}

// TestPausedContainer has calls that need the guest meet one that does not run.
func TestPausedContainer(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, pidFile := r.id(), filepath.Join(r.dir, "pid")
	r.run("run", "--detach", "--pid-file", pidFile, "--bundle", r.sh(forever), id).want(t, 0, "", "")
	r.run("pause", id).want(t, 0, "", "")
	r.run("ps", id).want(t, 1, "", "the guest of a paused container does not answer")
	r.run("ps", "--format", "json", id).want(t, 0, fmt.Sprintf("[%d]\n", readPID(t, pidFile)), "")
	r.run("kill", id, "TERM").want(t, 0, "", "") // comes when it is resumed
	r.run("state", id).want(t, 0, `"status": "paused"`, "")
	r.run("resume", id).want(t, 0, "", "")
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")

	r.run("run", "--detach", "--bundle", r.sh(forever), id).want(t, 0, "", "")
	r.run("pause", id).want(t, 0, "", "")
	begin := time.Now()
	r.run("kill", id, "KILL").want(t, 0, "", "")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("SIGKILL to a paused container took %v", took)
	}
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
	check()
}

// TestRunDeleted deletes a container under the run that waits for it.
func TestRunDeleted(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id := r.id()
	cmd := r.command("run", "--bundle", r.sh(forever), id)
	done := make(chan result, 1)
	go func() { done <- finish(t, cmd, nil) }()
	r.waitStatus(id, "running")
	r.run("delete", "--force", id).want(t, 0, "", "")
	if res := <-done; res.status != 137 || res.err != "" {
		t.Errorf("run: status %d, stderr %q; want 137 and nothing", res.status, res.err)
	}
	check()
}

// TestCreateKilled kills creates at many points of a start: nothing runs on, and the id can be used again.
func TestCreateKilled(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, bundle := r.id(), r.sh("exit 9")
	for i := range 10 {
		cmd := r.command("create", "--bundle", bundle, id)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 20 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		res := r.run("state", id)
		switch {
		case res.status == 1 && strings.Contains(res.err, "container does not exist"):
		case strings.Contains(res.out, `"status": "stopped"`):
		case strings.Contains(res.out, `"status": "created"`): // it was done
			r.run("delete", "--force", id).want(t, 0, "", "")
		default:
			// The monitor may need a moment to end.
			r.waitStatus(id, "stopped")
		}
	}
	r.run("delete", "--force", id).want(t, 0, "", "")
	r.run("run", "--bundle", bundle, id).want(t, 9, "", "")
	check()
}

// TestHalfDone has the states that a start, a pause and a resume leave behind when they are killed between recording and doing: the
// same call once more does it.
func TestHalfDone(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, state := r.id(), ""
	edit := func(old, new string) {
		t.Helper()
		b, err := os.ReadFile(state)
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatalf("%v; no %s in %s", err, old, b)
		}
		writeFile(t, state, strings.Replace(string(b), old, new, 1))
	}
	r.run("create", "--bundle", r.sh("echo begun >/tmp/begun; "+forever), id).want(t, 0, "", "")
	state = filepath.Join(r.root, id, "state.json")
	edit(`"started":false`, `"started":true`)
	r.run("state", id).want(t, 0, `"status": "created"`, "")
	r.run("start", id).want(t, 0, "", "")
	r.run("state", id).want(t, 0, `"status": "running"`, "")
	r.run("start", id).want(t, 1, "", "cannot start an already running container")
	r.run("exec", id, "/bin/sh", "-c", "until cat /tmp/begun; do sleep 0.1; done").want(t, 0, "begun\n", "")

	edit(`"paused":false`, `"paused":true`)
	r.run("resume", id).want(t, 0, "", "")
	r.run("state", id).want(t, 0, `"status": "running"`, "")
	r.run("pause", id).want(t, 0, "", "")
	edit(`"paused":true`, `"paused":false`)
	r.run("resume", id).want(t, 0, "", "")
	r.run("resume", id).want(t, 1, "", "container not paused")
	r.run("exec", id, "/bin/true").want(t, 0, "", "")
	r.run("delete", "--force", id).want(t, 0, "", "")
	check()
}

// TestRunInterrupted is a user's Ctrl-C while the guest boots.
func TestRunInterrupted(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id := r.id()
	cmd := r.command("run", "--bundle", r.sh(forever), id)
	done := make(chan result, 1)
	go func() { done <- finish(t, cmd, nil) }()
	for range 600 {
		if _, err := os.Stat(filepath.Join(r.root, id, "control.sock")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.run("state", id).want(t, 0, `"status": "creating"`, "")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if res := <-done; res.status != 1 || !strings.Contains(res.err, "interrupt signal received") {
		t.Errorf("status %d, stderr %q", res.status, res.err)
	}
	check()
}

// saysAny says whether an error has one of the texts.
func saysAny(err string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(err, text) })
}

// TestRaces lets operations meet each other and the container's own end. Each has one of the outcomes that its order
// with the other allows.
func TestRaces(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	both := func(a, b func() result) (result, result) {
		var wg sync.WaitGroup
		var resA, resB result
		wg.Go(func() { resA = a() })
		wg.Go(func() { resB = b() })
		wg.Wait()
		return resA, resB
	}
	call := func(args ...string) func() result { return func() result { return r.run(args...) } }
	bundle, short := r.sh(forever), r.sh("sleep 0.5")
	for range 3 {
		id := r.id()
		a, b := both(call("create", "--bundle", bundle, id), call("create", "--bundle", bundle, id))
		if a.status+b.status != 1 || !strings.Contains(a.err+b.err, "container with given ID already exists") {
			t.Errorf("two creates: %+v, %+v", a, b)
		}
		start, del := both(call("start", id), call("delete", "--force", id))
		if del.status != 0 || start.status != 0 && !saysAny(start.err, "container does not exist", "a container that has stopped", "unable to start container process") {
			t.Errorf("start and delete: %+v, %+v", start, del)
		}
		r.run("state", id).want(t, 1, "", "container does not exist")

		r.run("run", "--detach", "--bundle", short, id).want(t, 0, "", "")
		for end := time.Now().Add(20 * time.Second); ; {
			exec, kill := both(call("exec", id, "/bin/true"), call("kill", id, "0"))
			stopped := false
			if exec.status != 0 && exec.status != 137 {
				stopped = true
				if exec.status != 255 || !strings.Contains(exec.err, "container not running") && !strings.Contains(exec.err, "cannot exec in a stopped container") {
					t.Errorf("exec in one that ends: %+v", exec)
				}
			}
			if kill.status != 0 {
				stopped = true
				if !strings.Contains(kill.err, "container not running") {
					t.Errorf("kill of one that ends: %+v", kill)
				}
			}
			if stopped {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the container does not end")
			}
		}
		r.waitStatus(id, "stopped")
		r.run("delete", id).want(t, 0, "", "")
	}
	check()
}

// TestEndsAtOnce starts processes that end before start has returned.
func TestEndsAtOnce(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, bundle := r.id(), r.bundle(nil, "/bin/true")
	for range 5 {
		r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
		r.run("start", id).want(t, 0, "", "")
		r.waitStatus(id, "stopped")
		r.run("delete", id).want(t, 0, "", "")
	}
	check()
}

// TestDamagedState has a running container's state overwritten.
func TestDamagedState(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id := r.id()
	r.run("run", "--detach", "--bundle", r.sh(forever), id).want(t, 0, "", "")
	writeFile(t, filepath.Join(r.root, id, "state.json"), "{")
	r.run("state", id).want(t, 1, "", "the container's state is damaged: "+id)
	r.run("delete", id).want(t, 1, "", "the container's state is damaged: "+id)
	r.run("list", "-q").want(t, 0, "", id)
	r.run("delete", "--force", id).want(t, 0, "", "")
	check()
}

// TestExecProcesses has the host's process of an exec listed, and killed with the exec's own.
func TestExecProcesses(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, pidFile, execFile := r.id(), filepath.Join(r.dir, "pid"), filepath.Join(r.dir, "exec")
	r.run("run", "--detach", "--pid-file", pidFile, "--bundle", r.sh(forever), id).want(t, 0, "", "")
	r.run("exec", "--detach", "--pid-file", execFile, id, "/bin/sleep", "4711").want(t, 0, "", "")
	var pids []int
	if err := json.Unmarshal([]byte(r.run("ps", "--format=json", id).out), &pids); err != nil {
		t.Fatal(err)
	}
	if len(pids) != 2 || pids[0] != readPID(t, pidFile) || pids[1] != readPID(t, execFile) {
		t.Errorf("host processes %v", pids)
	}
	r.run("ps", id).want(t, 0, "sleep 4711", "")
	if err := syscall.Kill(readPID(t, execFile), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if !strings.Contains(r.run("ps", id).out, "sleep 4711") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if out := r.run("ps", id).out; strings.Contains(out, "sleep 4711") {
		t.Errorf("its proxy was killed, it runs on: %s", out)
	}
	r.run("delete", "--force", id).want(t, 0, "", "")
	check()
}

// TestHostCgroup limits a container's CPU by a cgroup, which goes with all that was made for it.
func TestHostCgroup(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	quota, shares := int64(50000), uint64(512)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/govmm-e2e/deep/c"
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Shares: &shares}}
	}, "/bin/sh", "-c", forever)
	id, pidFile := r.id(), filepath.Join(r.dir, "pid")
	r.run("run", "--detach", "--pid-file", pidFile, "--bundle", bundle, id).want(t, 0, "", "")
	in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", readPID(t, pidFile)))
	if err != nil || string(in) != "0::/govmm-e2e/deep/c\n" {
		t.Errorf("the monitor's cgroup: %q, %v", in, err)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/govmm-e2e/deep/c/cpu.max"); err != nil || string(b) != "50000 100000\n" {
		t.Errorf("cpu.max: %q, %v", b, err)
	}
	r.run("run", "--bundle", bundle, r.id()).want(t, 1, "", "container's cgroup is not empty: ") // kernel threads of KVM's count, too
	r.run("delete", "--force", id).want(t, 0, "", "")
	check()
}

// TestStrayDescriptor has a caller leave a pipe open, as conmon does, and wait for its end.
func TestStrayDescriptor(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := r.command("run", "--detach", "--bundle", r.sh(forever), id)
	cmd.ExtraFiles = []*os.File{nil, nil, nil, write} // descriptor 6
	finish(t, cmd, nil).want(t, 0, "", "")
	exec := exec.Command(r.binary, "--root", r.root, "exec", "--detach", id, "/bin/sleep", "100")
	exec.ExtraFiles = []*os.File{nil, nil, write}
	finish(t, exec, nil).want(t, 0, "", "")
	write.Close()
	if err := read.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("read %d bytes, %v: somebody keeps the caller's pipe", n, err)
	}
	r.run("delete", "--force", id).want(t, 0, "", "")
}
