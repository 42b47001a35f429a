package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/oci"
)

// execFlags are the flags that change the container's own process for an exec.
type execFlags struct {
	process, cwd, user string
	env, caps, cgroups []string
	groups             []int
	tty, noNewPrivs    bool
}

func (a *app) execCommand() *cobra.Command {
	var o lifecycle.ExecOptions
	var e execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] ID COMMAND [ARGUMENT...] | exec --process FILE ID",
		Short: "run a further process in a running container",
		Example: `  govmm-run exec web ps -ef
  govmm-run exec -t --user 1000:1000 --cwd /tmp web sh`,
		Args: idFirst,
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags of the command are its own
	f.StringVarP(&e.process, "process", "p", "", "file with the whole process as JSON")
	f.StringVar(&e.cwd, "cwd", "", "working directory in the container")
	f.StringArrayVarP(&e.env, "env", "e", nil, "environment variable NAME=VALUE; may be repeated")
	f.BoolVarP(&e.tty, "tty", "t", false, "give the process a terminal")
	f.StringVarP(&e.user, "user", "u", "", "UID[:GID]")
	f.IntSliceVarP(&e.groups, "additional-gids", "g", nil, "further group ids")
	f.StringArrayVarP(&e.caps, "cap", "c", nil, "capability to add; may be repeated")
	f.BoolVar(&e.noNewPrivs, "no-new-privs", false, "forbid the process to gain privileges")
	f.BoolVarP(&o.Detach, "detach", "d", false, "return as soon as the process runs")
	f.StringVar(&o.PIDFile, "pid-file", "", "file for the process id that stands for the process on the host")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "Unix socket that receives the terminal's master")
	f.BoolVar(&o.IgnorePaused, "ignore-paused", false, "do not refuse a paused container: wait until it is resumed")
	f.StringArrayVar(&e.cgroups, "cgroup", nil, "cgroup to run in, below the container's")
	f.Int("preserve-fds", 0, "refused unless 0: descriptors cannot be passed into a VM")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if err := checkPreserveFDs(cmd); err != nil {
			return err
		}
		o.ID = args[0]
		c, err := r.ForExec(o.ID, o.IgnorePaused)
		if err != nil {
			return lifecycle.ExecFailed(err)
		}
		p, err := execProcess(c, e, args)
		if err != nil {
			return lifecycle.ExecFailed(err)
		}
		o.Process = p
		if o.Cgroup, err = subCgroup(e.cgroups); err != nil {
			return lifecycle.ExecFailed(err)
		}
		a.status, err = r.Exec(o)
		return err
	})
	return cmd
}

// execProcess is the process of the file, or the container's own process changed by the flags.
func execProcess(c *container.Container, e execFlags, args []string) (*specs.Process, error) {
	if e.process != "" {
		b, err := os.ReadFile(e.process)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("%s: %w", e.process, err)
		}
		return &p, nil
	}
	if len(args) < 2 {
		return nil, errors.New("process args cannot be empty")
	}
	b, err := os.ReadFile(filepath.Join(c.State.Bundle, oci.ConfigFile))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", oci.ConfigFile, err)
	}
	if spec.Process == nil {
		return nil, errors.New("process property must not be empty")
	}
	p := spec.Process
	p.Args = args[1:]
	return p, e.apply(p)
}

func (e execFlags) apply(p *specs.Process) error {
	p.Terminal = e.tty
	p.ConsoleSize = nil
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	p.Env = append(p.Env, e.env...)
	if e.noNewPrivs {
		p.NoNewPrivileges = true
	}
	for _, g := range e.groups {
		if g < 0 {
			return fmt.Errorf("--additional-gids: %d is no group id", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	addCapabilities(p, e.caps)
	return e.applyUser(p)
}

// subCgroup is the one cgroup of the flag: the guest's are of version 2, which has no controllers of their own.
func subCgroup(given []string) (string, error) {
	switch {
	case len(given) == 0:
		return "", nil
	case len(given) > 1 || given[0] == "" || strings.Contains(given[0], ":"):
		return "", fmt.Errorf("invalid --cgroup argument: %s: it is one path, without controllers", strings.Join(given, " "))
	}
	return given[0], nil
}

func addCapabilities(p *specs.Process, caps []string) {
	if len(caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	for _, c := range caps {
		for _, set := range []*[]string{&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Permitted} {
			if !slices.Contains(*set, c) {
				*set = append(*set, c)
			}
		}
	}
}

func (e execFlags) applyUser(p *specs.Process) error {
	if e.user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(e.user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("--user: %q is no user id", uid)
	}
	p.User.UID = uint32(n)
	if !both {
		return nil
	}
	if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
		return fmt.Errorf("--user: %q is no group id", gid)
	}
	p.User.GID = uint32(n)
	return nil
}
