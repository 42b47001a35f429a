package lifecycle

import (
	"context"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/hooks"
	"github.com/govmm/govmm/runtime/monitor"
)

// hookState is what a hook reads (runtime-spec, runtime.md: state).
func hookState(c *container.Container, status container.Status, pid int) *specs.State {
	s := &c.State
	return &specs.State{
		Version: specs.Version, ID: s.ID, Status: specs.ContainerState(status), Pid: pid, Bundle: s.Bundle, Annotations: s.Annotations,
	}
}

// converse has the monitor make the container. When its namespaces and mounts are there it lets this process run the
// hooks that belong here.
func (c *created) converse(ctx context.Context, sync *control.Conn, cfg *monitor.Config) error {
	reply, err := sync.Call(cfg)
	if err != nil || !reply.Hooks {
		return err
	}
	state := hookState(c.Container, container.Creating, c.monitor.Pid)
	for _, kind := range []string{hooks.Prestart, hooks.CreateRuntime} {
		if err := hooks.Run(ctx, kind, hooks.Of(c.spec.Hooks, kind), state, c.State.Bundle); err != nil {
			return err
		}
	}
	_, err = sync.Call(control.Request{})
	return err
}

// poststart runs the hooks that follow the start of the process. One that fails is the container's end.
func (r *Runtime) poststart(c *container.Container) error {
	list := hooks.Of(c.State.Hooks, hooks.Poststart)
	if len(list) == 0 {
		return nil
	}
	state := hookState(c, c.Status(), c.State.PID)
	if state.Status == specs.StateStopped {
		state.Pid = 0
	}
	err := hooks.Run(context.Background(), hooks.Poststart, list, state, c.State.Bundle)
	if err != nil {
		_ = r.Kill(c.State.ID, unix.SIGKILL, true)
	}
	return err
}

// remove deletes the container's directory, the last that is left of it, and runs the poststop hooks. What they do
// wrong is only warned of.
func (r *Runtime) remove(c *container.Container) error {
	if err := c.Remove(); err != nil {
		return err
	}
	list := hooks.Of(c.State.Hooks, hooks.Poststop)
	if len(list) == 0 {
		return nil
	}
	dir := c.State.Bundle
	if _, err := os.Stat(dir); err != nil {
		dir = "/" // they must run, whoever took the bundle away
	}
	state := hookState(c, container.Stopped, 0)
	if err := hooks.RunAll(context.Background(), hooks.Poststop, list, state, dir); err != nil {
		r.Log.Warn(err.Error())
	}
	return nil
}
