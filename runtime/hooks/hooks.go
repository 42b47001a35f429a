// Package hooks runs the hooks of a config.json that are programs of the host (runtime-spec, config.md: POSIX-platform
// hooks). Those of the guest are the agent's.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The kinds of hooks, by their names in config.json.
const (
	Prestart        = "prestart"
	CreateRuntime   = "createRuntime"
	CreateContainer = "createContainer"
	StartContainer  = "startContainer"
	Poststart       = "poststart"
	Poststop        = "poststop"
)

// Of returns the hooks of one kind; h may be nil.
func Of(h *specs.Hooks, kind string) []specs.Hook {
	if h == nil {
		return nil
	}
	switch kind {
	case Prestart:
		//lint:ignore SA1019 deprecated for those who write configs: docker does until version 25
		return h.Prestart
	case CreateRuntime:
		return h.CreateRuntime
	case CreateContainer:
		return h.CreateContainer
	case StartContainer:
		return h.StartContainer
	case Poststart:
		return h.Poststart
	}
	return h.Poststop
}

const (
	// maxOutput is how much of a hook's output an error repeats, in bytes of each stream.
	maxOutput = 32 << 10
	// drainTime is how long a hook that has ended may leave its output open, in a child that goes on.
	drainTime = time.Second
)

// Run runs hooks one after the other in the directory dir, each with the container's state on its standard input. The
// first one that fails is the last, and so is one that runs when ctx ends, which kills it. Its error is in runc's words.
func Run(ctx context.Context, kind string, list []specs.Hook, state *specs.State, dir string) error {
	for i := range list {
		if err := run(ctx, &list[i], state, dir); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

// RunAll runs every hook, whichever fails, and joins their errors.
func RunAll(ctx context.Context, kind string, list []specs.Hook, state *specs.State, dir string) error {
	var errs []error
	for i := range list {
		if err := run(ctx, &list[i], state, dir); err != nil {
			errs = append(errs, fmt.Errorf("error running %s hook #%d: %w", kind, i, err))
		}
	}
	return errors.Join(errs...)
}

func run(ctx context.Context, h *specs.Hook, state *specs.State, dir string) error {
	in, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if h.Timeout != nil {
		limit := time.Duration(*h.Timeout) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("hook ran past specified timeout of %.1fs", limit.Seconds()))
		defer cancel()
	}
	var stdout, stderr output
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args = h.Args // the first is the name to go by
	cmd.Env = append([]string{}, h.Env...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	// A group of its own, so that the end of its time is that of its children, too. It ends with its parent, which the
	// kernel takes for the thread that has started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = drainTime
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		return fmt.Errorf("%w, stdout: %s, stderr: %s", err, stdout.b, stderr.b)
	default:
		return err
	}
}

// output keeps the beginning of what is written to it.
type output struct{ b []byte }

var _ io.Writer = (*output)(nil)

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.b = append(o.b, p[:min(len(p), maxOutput-len(o.b))]...)
	return len(p), nil
}
