package oci

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/hooks"
)

// hookKinds are the kinds of hooks in the order of a container's life.
var hookKinds = []string{
	hooks.Prestart, hooks.CreateRuntime, hooks.CreateContainer, hooks.StartContainer, hooks.Poststart, hooks.Poststop,
}

// sharedKernelHooks are programs that change or watch the container's processes and mounts through the host's kernel.
// They would report success and have had no effect on the guest.
var sharedKernelHooks = map[string]string{
	"nvidia-container-runtime-hook": "it mounts the host's GPU driver",
	"nvidia-container-toolkit":      "it mounts the host's GPU driver",
	"nvidia-container-cli":          "it mounts the host's GPU driver",
	"nvidia-ctk":                    "it arranges the host's GPU driver",
	"nvidia-cdi-hook":               "it arranges the host's GPU driver",
	"oci-nvidia-hook":               "it mounts the host's GPU driver",
	"oci-systemd-hook":              "it mounts cgroups and a journal; systemd runs in a micro-VM without it",
	"oci-umount":                    "it unmounts in the container's mount namespace",
	"oci-seccomp-bpf-hook":          "it traces the container's system calls in the host's kernel",
}

func checkHooks(h *specs.Hooks) error {
	for _, kind := range hookKinds {
		for i, hook := range hooks.Of(h, kind) {
			if err := checkHook(&hook, kind == hooks.StartContainer); err != nil {
				return fmt.Errorf("hooks.%s[%d]: %w", kind, i, err)
			}
		}
	}
	return nil
}

func checkHook(h *specs.Hook, inGuest bool) error {
	if !filepath.IsAbs(h.Path) {
		return fmt.Errorf("path %q is not absolute", h.Path)
	}
	if h.Timeout != nil && (*h.Timeout <= 0 || *h.Timeout > math.MaxInt32) {
		return fmt.Errorf("timeout %d is not a number of seconds between 1 and %d", *h.Timeout, math.MaxInt32)
	}
	for _, list := range [][]string{{h.Path}, h.Args, h.Env} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return fmt.Errorf("%q holds a NUL byte", v)
			}
		}
	}
	names := append([]string{h.Path}, h.Args...)
	if target, err := filepath.EvalSymlinks(h.Path); err == nil && !inGuest {
		names = append(names, target)
	}
	for _, name := range names {
		if why, ok := sharedKernelHooks[filepath.Base(name)]; ok {
			return fmt.Errorf("%s works only where container and host share a kernel (%s): remove it", filepath.Base(name), why)
		}
	}
	return nil
}

// AddHooks gives c the hooks that the agent runs, and the state that they read: its pid is the container's view of its
// own process.
func AddHooks(c *agent.CreateContainer, h *specs.Hooks, state specs.State) error {
	list := hooks.Of(h, hooks.StartContainer)
	if len(list) == 0 {
		return nil
	}
	for _, hook := range list {
		out := agent.Hook{Path: hook.Path, Args: hook.Args, Env: hook.Env}
		if hook.Timeout != nil {
			out.Seconds = uint64(*hook.Timeout)
		}
		c.Hooks = append(c.Hooks, out)
	}
	state.Status, state.Pid = specs.StateCreated, 1
	b, err := json.Marshal(state)
	c.HookState = string(b)
	return err
}
