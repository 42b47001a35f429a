package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func sh(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSurroundings looks at all that a hook is given.
func TestSurroundings(t *testing.T) {
	t.Setenv("STRAY", "1")
	dir := t.TempDir()
	state := &specs.State{Version: "1.2.0", ID: "c", Status: specs.StateCreating, Pid: 12, Bundle: "/b", Annotations: map[string]string{"a": "b"}}
	probe := specs.Hook{
		Path: "/bin/sh", Env: []string{"A=1", "B=2"},
		Args: []string{"my-name", "-c", `cat >state; pwd >dir; tr '\0' '\n' </proc/$$/environ >env; tr '\0' '\n' </proc/$$/cmdline >args`, "zero", "one"},
	}
	if err := Run(t.Context(), Prestart, []specs.Hook{probe}, state, dir); err != nil {
		t.Fatal(err)
	}
	var got specs.State
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "state"))), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*state, got); d != "" {
		t.Error(d)
	}
	if wd := read(t, filepath.Join(dir, "dir")); wd != dir+"\n" {
		t.Errorf("working directory %q", wd)
	}
	if env := read(t, filepath.Join(dir, "env")); env != "A=1\nB=2\n" {
		t.Errorf("environment %q", env)
	}
	args := strings.Split(read(t, filepath.Join(dir, "args")), "\n")
	if args[0] != "my-name" || args[3] != "zero" || args[4] != "one" {
		t.Errorf("arguments %q", args)
	}
}

// TestNothingGiven runs a hook with neither arguments nor environment, which reads nothing.
func TestNothingGiven(t *testing.T) {
	t.Setenv("STRAY", "1")
	dir := t.TempDir()
	script := filepath.Join(dir, "hook")
	text := "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/environ >" + dir + "/env\necho $# >" + dir + "/args\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Prestart, []specs.Hook{{Path: script}}, &specs.State{}, "/"); err != nil {
		t.Fatal(err)
	}
	if env, args := read(t, dir+"/env"), read(t, dir+"/args"); env != "" || args != "0\n" {
		t.Errorf("environment %q, %s arguments", env, args)
	}
}

func TestFailures(t *testing.T) {
	one := 1
	endless := sh("echo started; sleep 1000 & sleep 1000")
	endless.Timeout = &one
	for _, tt := range []struct {
		hook specs.Hook
		want string
	}{
		{sh("echo out; echo err >&2; exit 3"), "error running poststart hook #1: exit status 3, stdout: out\n, stderr: err\n"},
		{sh("kill -9 $$"), "error running poststart hook #1: signal: killed, stdout: , stderr: "},
		{specs.Hook{Path: "/nope"}, "error running poststart hook #1: fork/exec /nope: no such file or directory"},
		{endless, "error running poststart hook #1: hook ran past specified timeout of 1.0s"},
	} {
		mark := filepath.Join(t.TempDir(), "mark")
		begin := time.Now()
		err := Run(t.Context(), Poststart, []specs.Hook{sh("true"), tt.hook, sh("touch " + mark)}, &specs.State{}, "/")
		if err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %q", err, tt.want)
		}
		if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the next hook has run: %v", tt.want, err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%q: took %v", tt.want, took)
		}
	}
}

func TestLongOutput(t *testing.T) {
	err := Run(t.Context(), Prestart, []specs.Hook{sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1")}, &specs.State{}, "/")
	if err == nil || strings.Count(err.Error(), "x") < maxOutput || len(err.Error()) > maxOutput+200 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestRunAll(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	err := RunAll(t.Context(), Poststop, []specs.Hook{sh("exit 1"), sh("touch " + mark), sh("exit 2")}, &specs.State{}, "/")
	if err == nil || !strings.Contains(err.Error(), "poststop hook #0: exit status 1") || !strings.Contains(err.Error(), "poststop hook #2: exit status 2") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

// TestLeftChild has a hook leave a child behind that keeps its output open: that is none of the container's business.
func TestLeftChild(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	if err := Run(t.Context(), Prestart, []specs.Hook{sh("sleep 1000 & echo $! >" + pid)}, &specs.State{}, "/"); err != nil {
		t.Error(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(read(t, pid)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(child, unix.SIGKILL); err != nil {
		t.Errorf("the child is gone: %v", err)
	}
}

// TestInterrupted ends the call while a hook and a child of it run.
func TestInterrupted(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	err := Run(ctx, Prestart, []specs.Hook{sh("sleep 1000 & echo $! >" + pid + "; wait")}, &specs.State{}, "/")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(read(t, pid)))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return // dead; a zombie where process 1 does not reap
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the hook's child lives")
}
