package monitor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/hooks"
)

// beforePivot runs the hooks that find the container's namespaces and mounts made and the host's tree still there:
// those of the runtime's namespaces, which create runs, and then those of the container's.
func (m *monitor) beforePivot() error {
	m.holdTun()
	inContainer := hooks.Of(m.cfg.Spec.Hooks, hooks.CreateContainer)
	if !hasRuntimeHooks(m.cfg.Spec.Hooks) && len(inContainer) == 0 {
		return nil
	}
	rootfs, err := filepath.EvalSymlinks(m.cfg.Spec.Root.Path)
	if err != nil {
		return err
	}
	before, err := mountsBelow(rootfs)
	if err != nil {
		return err
	}
	if hasRuntimeHooks(m.cfg.Spec.Hooks) {
		if err := m.sync.Send(control.Reply{Hooks: true}); err != nil {
			return err
		}
		<-m.hooksRun
	}
	state := m.cfg.State
	state.Status, state.Pid = specs.StateCreating, os.Getpid()
	if err := hooks.Run(context.Background(), hooks.CreateContainer, inContainer, &state, rootfs); err != nil {
		return err
	}
	after, err := mountsBelow(rootfs)
	if err != nil {
		return err
	}
	for id, path := range after {
		if _, known := before[id]; !known {
			return fmt.Errorf("a hook mounted something on %s of the container: the guest would not see it; use mounts in config.json", path)
		}
	}
	return nil
}

func hasRuntimeHooks(h *specs.Hooks) bool {
	return len(hooks.Of(h, hooks.Prestart))+len(hooks.Of(h, hooks.CreateRuntime)) > 0
}

// mountsBelow returns the paths below root of what is mounted at it and below it, by the mounts' numbers.
func mountsBelow(root string) (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	// As the file writes it (proc(5)).
	root = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(root)
	found := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if path, ok := strings.CutPrefix(f[4], root); ok && (path == "" || path[0] == '/') {
			found[f[0]] = filepath.Join("/", path)
		}
	}
	return found, nil
}
