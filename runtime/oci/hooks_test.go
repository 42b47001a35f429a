package oci

//lint:file-ignore SA1019 prestart hooks are deprecated, and carried out

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
)

// TestHookByLink names a hook that works on shared kernels only by a link to it.
func TestHookByLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nvidia-container-toolkit"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "hook")
	if err := os.Symlink("nvidia-container-toolkit", link); err != nil {
		t.Fatal(err)
	}
	hook := []specs.Hook{{Path: link}}
	if err := checkHooks(&specs.Hooks{Prestart: hook}); err == nil || !strings.Contains(err.Error(), "nvidia-container-toolkit works only") {
		t.Errorf("error %v", err)
	}
	if err := checkHooks(&specs.Hooks{StartContainer: hook}); err != nil {
		t.Errorf("a link of the host was followed for a path of the container: %v", err)
	}
}

// TestGuestHooks translates the hooks that the agent runs.
func TestGuestHooks(t *testing.T) {
	seconds := 5
	spec := Example()
	spec.Hooks = &specs.Hooks{
		Prestart:       []specs.Hook{{Path: "/host"}},
		StartContainer: []specs.Hook{{Path: "/a", Args: []string{"x"}, Env: []string{"A=b"}, Timeout: &seconds}, {Path: "/b"}},
	}
	state := specs.State{Version: "1.0.2", ID: "c", Status: specs.StateCreating, Pid: 77, Bundle: "/bundle"}
	m := &agent.CreateContainer{}
	if err := AddHooks(m, spec.Hooks, state); err != nil {
		t.Fatal(err)
	}
	want := []agent.Hook{{Path: "/a", Args: []string{"x"}, Env: []string{"A=b"}, Seconds: 5}, {Path: "/b"}}
	if d := cmp.Diff(want, m.Hooks); d != "" {
		t.Error(d)
	}
	var got specs.State
	if err := json.Unmarshal([]byte(m.HookState), &got); err != nil {
		t.Fatal(err)
	}
	state.Status, state.Pid = specs.StateCreated, 1
	if d := cmp.Diff(state, got); d != "" {
		t.Error(d)
	}
	spec.Hooks.StartContainer, m = nil, &agent.CreateContainer{}
	if err := AddHooks(m, spec.Hooks, state); err != nil || m.Hooks != nil || m.HookState != "" {
		t.Errorf("without hooks: %v, %+v, %q", err, m.Hooks, m.HookState)
	}
}

func TestFeaturesHooks(t *testing.T) {
	want := []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
	if d := cmp.Diff(want, Features().Hooks); d != "" {
		t.Error(d)
	}
}
