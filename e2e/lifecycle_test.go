package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestRunExitStatus(t *testing.T) {
	r := newRuntime(t)
	for _, tt := range []struct {
		script string
		status int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
	} {
		r.run("run", "--bundle", r.sh(tt.script), r.id()).want(t, tt.status, "", "")
	}
	if out := r.run("list", "-q").out; out != "" {
		t.Errorf("containers left behind: %q", out)
	}
}

func TestSeparateStreams(t *testing.T) {
	r := newRuntime(t)
	res := r.run("run", "--bundle", r.sh("echo to-out; echo to-err >&2"), r.id())
	if res.out != "to-out\n" || res.err != "to-err\n" || res.status != 0 {
		t.Errorf("stdout %q, stderr %q, status %d", res.out, res.err, res.status)
	}
}

func TestStdinToEOF(t *testing.T) {
	r := newRuntime(t)
	res := r.runInput([]byte("one\ntwo\n"), "run", "--bundle", r.sh("cat; echo after EOF"), r.id())
	if res.out != "one\ntwo\nafter EOF\n" {
		t.Errorf("stdout %q, stderr %q", res.out, res.err)
	}
}

func TestHundredMegabytes(t *testing.T) {
	r := newRuntime(t)
	cmd := r.command("run", "--bundle", r.sh("cat"), r.id())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const size = 100 << 20
	sent, got := sha256.New(), sha256.New()
	go func() {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(i * 7)
		}
		for n := 0; n < size; n += len(block) {
			block[0] = byte(n >> 20)
			sent.Write(block)
			if _, err := in.Write(block); err != nil {
				t.Errorf("write: %v", err)
				break
			}
		}
		in.Close()
	}()
	n, err := io.Copy(got, out)
	if err != nil || n != size {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("run: %v", err)
	}
	if s, g := hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(got.Sum(nil)); s != g {
		t.Errorf("SHA-256 differs: sent %s, got %s", s, g)
	}
}

// TestStateMachine walks every operation through every state.
func TestStateMachine(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	bundle := r.sh("trap 'exit 3' TERM; while :; do sleep 0.1; done")
	steps := []struct {
		args   []string
		status int
		out    string
		err    string
	}{
		{[]string{"state", id}, 1, "", "container does not exist"},
		{[]string{"start", id}, 1, "", "container does not exist"},
		{[]string{"kill", id}, 1, "", "container does not exist"},
		{[]string{"delete", id}, 1, "", "container does not exist"},
		{[]string{"delete", "--force", id}, 0, "", ""},
		{[]string{"create", "--bundle", bundle, id}, 0, "", ""},
		{[]string{"create", "--bundle", bundle, id}, 1, "", "container with given ID already exists"},
		{[]string{"state", id}, 0, `"status": "created"`, ""},
		{[]string{"resume", id}, 1, "", "container not paused"},
		{[]string{"start", id}, 0, "", ""},
		{[]string{"start", id}, 1, "", "cannot start an already running container"},
		{[]string{"state", id}, 0, `"status": "running"`, ""},
		{[]string{"list"}, 0, id, ""},
		{[]string{"ps", id}, 0, "sleep", ""},
		{[]string{"exec", id, "/bin/echo", "hi"}, 0, "hi\n", ""},
		{[]string{"exec", id, "/bin/sh", "-c", "exit 5"}, 5, "", ""},
		{[]string{"exec", id, "/bin/sh", "-c", "kill -9 $$"}, 137, "", ""},
		{[]string{"exec", id, "/nope"}, 255, "", `exec failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory`},
		{[]string{"exec", id, "/etc/passwd"}, 255, "", `exec: "/etc/passwd": permission denied`},
		{[]string{"exec", "--cwd", "/nodir", id, "/bin/true"}, 255, "", `chdir to cwd ("/nodir") set in config.json failed: no such file or directory`},
		{[]string{"pause", id}, 0, "", ""},
		{[]string{"pause", id}, 1, "", "container not running"},
		{[]string{"state", id}, 0, `"status": "paused"`, ""},
		{[]string{"exec", id, "/bin/true"}, 255, "", "cannot exec in a paused container (use --ignore-paused to override)"},
		{[]string{"resume", id}, 0, "", ""},
		{[]string{"resume", id}, 1, "", "container not paused"},
		{[]string{"delete", id}, 1, "", "cannot delete container " + id + " that is not stopped: running"},
		{[]string{"kill", id, "FOO"}, 1, "", `unknown signal \"FOO\"`},
		{[]string{"kill", id, "KILL"}, 0, "", ""},
	}
	for _, s := range steps {
		t.Log(s.args)
		res := r.run(s.args...)
		if res.status != s.status || !strings.Contains(res.out, s.out) || !strings.Contains(unquote(res.err), unquote(s.err)) {
			t.Fatalf("%v: status %d, stdout %q, stderr %q; want %d, %q, %q", s.args, res.status, res.out, res.err, s.status, s.out, s.err)
		}
	}
	r.waitStatus(id, "stopped")
	for _, s := range [][]string{
		{"kill", id, "TERM", "container not running"},
		{"exec", id, "/bin/true", "cannot exec in a stopped container"},
		{"start", id, "cannot start a container that has stopped"},
		{"pause", id, "container not running"},
	} {
		res := r.run(s[:len(s)-1]...)
		if res.status == 0 || !strings.Contains(res.err, s[len(s)-1]) {
			t.Errorf("%v: status %d, stderr %q", s, res.status, res.err)
		}
	}
	r.run("delete", id).want(t, 0, "", "")
	r.run("state", id).want(t, 1, "", "container does not exist")
}

func unquote(s string) string { return strings.ReplaceAll(s, `\"`, `"`) }

// The exit status of a container is that of its monitor, whose pid is in the pid file.
func TestSignalsAndPIDFile(t *testing.T) {
	r := newRuntime(t)
	id, pidFile := r.id(), filepath.Join(r.dir, "pid")
	cmd := r.command("run", "--pid-file", pidFile, "--bundle", r.sh("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"), id)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil || strings.ContainsAny(string(b), "\n ") {
		t.Errorf("pid file %q, %v", b, err)
	}
	// A signal to run is one to the container's process.
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("status %d, want 3: %s", got, errors.String())
	}
}

func TestKilledIs137(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	cmd := r.command("run", "--bundle", r.sh("echo ready; while :; do sleep 0.1; done"), id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	r.run("kill", id, "9").want(t, 0, "", "")
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
}

func TestTwoSideBySide(t *testing.T) {
	r := newRuntime(t)
	a, b := r.id()+"a", r.id()+"b"
	for _, id := range []string{a, b} {
		r.run("run", "--detach", "--bundle", r.sh("while :; do sleep 0.1; done"), id).want(t, 0, "", "")
	}
	for _, id := range []string{a, b} {
		r.run("exec", id, "/bin/sh", "-c", "echo "+id+" > /tmp/me; cat /tmp/me").want(t, 0, id, "")
	}
	for _, id := range []string{a, b} {
		r.run("exec", id, "/bin/cat", "/tmp/me").want(t, 0, id+"\n", "")
		r.run("kill", id, "KILL").want(t, 0, "", "")
		r.waitStatus(id, "stopped")
		r.run("delete", id).want(t, 0, "", "")
	}
}

func TestTwoCPUs(t *testing.T) {
	r := newRuntime(t)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.govmm.cpus": "2"}
	}, "/bin/sh", "-c", "nproc; for i in 1 2; do (n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo done) & done; wait")
	r.run("run", "--bundle", bundle, r.id()).want(t, 0, "2\ndone\ndone\n", "")
}

func TestClockAfterPause(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	r.run("run", "--detach", "--bundle", r.sh("while :; do sleep 0.1; done"), id).want(t, 0, "", "")
	r.run("pause", id).want(t, 0, "", "")
	time.Sleep(5 * time.Second)
	r.run("resume", id).want(t, 0, "", "")
	before := time.Now()
	var guest int64
	if _, err := fmt.Sscan(r.run("exec", id, "/bin/date", "+%s").out, &guest); err != nil {
		t.Fatal(err)
	}
	if guest < before.Unix()-1 || guest > time.Now().Unix()+1 {
		t.Errorf("the guest's clock says %d, the host's %d to %d", guest, before.Unix(), time.Now().Unix())
	}
}

// list's JSON is what tools parse.
func TestListJSON(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	r.run("create", "--bundle", r.sh("true"), id).want(t, 0, "", "")
	var rows []struct {
		ID, Status string
		PID        int
	}
	if err := json.Unmarshal([]byte(r.run("list", "--format", "json").out), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].ID != id || rows[0].Status != "created" || rows[0].PID == 0 {
		t.Errorf("list says %+v", rows)
	}
	r.run("delete", id).want(t, 0, "", "")
}
