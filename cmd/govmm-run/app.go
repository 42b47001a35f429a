package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/govmm/govmm/runtime/cgroup"
	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/version"
)

const about = `govmm-run runs OCI bundles like runc does, each in a micro-VM of its own.

A bundle is a directory with a config.json ("govmm-run spec" writes one) and a root file system. One host process,
the monitor, stands for each container; the guest kernel and its PID 1 are inside this program.

  mkdir -p bundle/rootfs            # fill rootfs, for example with debootstrap
  govmm-run spec --bundle bundle
  govmm-run run --bundle bundle mycontainer

"govmm-run check" says whether this host can run micro-VMs.`

// app holds the global flags and the exit status.
type app struct {
	root, log, logFormat, kernel string
	logFile                      *os.File
	debug, systemdCgroup         bool
	cgroupManager, rootless      string
	status                       int
	begin                        time.Time
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "govmm-run",
		Short:         "an OCI runtime whose containers are micro-VMs",
		Long:          about,
		Version:       version.Version,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true // it is for wrong usage only, which is found out before
			if err := a.checkGlobals(); err != nil {
				return err
			}
			if _, err := a.openLog(); err != nil {
				return err
			}
			if a.debug {
				a.logger().Debug(cmd.CommandPath(), "version", version.Version, "root", a.root, "arguments", args)
			}
			return nil
		},
	}
	root.SetVersionTemplate(versionText())
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&a.root, "root", container.DefaultRoot, "directory of the containers' states; on a tmpfs")
	f.StringVar(&a.log, "log", "", "file for the error of this call, and for what --debug says")
	f.StringVar(&a.logFormat, "log-format", "text", "form of the log: text or json")
	f.StringVar(&a.kernel, "kernel", "", "guest kernel (ELF vmlinux or bzImage) in place of the one inside this program")
	f.BoolVar(&a.debug, "debug", false, "say more, on standard error or in the log")
	f.BoolVar(&a.systemdCgroup, "systemd-cgroup", false, "let systemd make the cgroup; linux.cgroupsPath is slice:prefix:name")
	f.StringVar(&a.cgroupManager, "cgroup-manager", "cgroupfs", "who makes the cgroup: cgroupfs, systemd or disabled")
	f.StringVar(&a.rootless, "rootless", "auto", "go on where a cgroup may not be made: true, false or auto")
	f.String("criu", "", "accepted for runc's sake")
	_ = f.MarkHidden("criu")
	root.AddCommand(
		a.createCommand(), a.runCommand(), a.startCommand(), a.killCommand(), a.deleteCommand(),
		a.pauseCommand(), a.resumeCommand(), a.updateCommand(), a.execCommand(),
		a.stateCommand(), a.listCommand(), a.psCommand(), a.eventsCommand(),
		a.specCommand(), featuresCommand(), checkCommand(), versionCommand(),
	)
	for _, cmd := range root.Commands() {
		cmd.ValidArgsFunction = a.completeArgument
	}
	return root
}

// completeArgument offers shells the ids of containers for a command's first argument, where it is an id that exists.
func (a *app) completeArgument(cmd *cobra.Command, args []string, _ string) (ids []string, what cobra.ShellCompDirective) {
	known := []string{"start", "state", "kill", "delete", "pause", "resume", "update", "exec", "ps", "events"}
	if len(args) > 0 || !slices.Contains(known, cmd.Name()) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	store, err := container.NewStore(a.root)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, _ := store.List() // what cannot be read is left out
	for _, c := range all {
		ids = append(ids, c.State.ID)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func versionText() string {
	return "govmm-run version " + version.Version + "\nspec: " + specVersion + "\n"
}

func (a *app) checkGlobals() error {
	switch {
	case a.logFormat != "text" && a.logFormat != "json":
		return fmt.Errorf("unknown log-format %q: use text or json", a.logFormat)
	case a.rootless != "auto" && !isBool(a.rootless):
		return fmt.Errorf("invalid --rootless %q: use true, false or auto", a.rootless)
	case !slices.Contains([]cgroup.Driver{cgroup.Cgroupfs, cgroup.Systemd, cgroup.Disabled}, a.driver()):
		return fmt.Errorf("unknown --cgroup-manager %q: use cgroupfs, systemd or disabled", a.cgroupManager)
	}
	return nil
}

func isBool(s string) bool {
	_, err := strconv.ParseBool(s)
	return err == nil
}

// driver makes one of runc's flag and crun's.
func (a *app) driver() cgroup.Driver {
	if a.systemdCgroup {
		return cgroup.Systemd
	}
	return cgroup.Driver(a.cgroupManager)
}

func (a *app) runtime() (*lifecycle.Runtime, error) {
	store, err := container.NewStore(a.root)
	if err != nil {
		return nil, err
	}
	kernel := a.kernel
	if kernel != "" {
		if kernel, err = filepath.Abs(kernel); err != nil {
			return nil, err
		}
		if _, err := os.Stat(kernel); err != nil {
			return nil, fmt.Errorf("--kernel: %w", err)
		}
	}
	rootless, _ := strconv.ParseBool(a.rootless)
	return &lifecycle.Runtime{Store: store, Kernel: kernel, Debug: a.debug, Log: a.logger(), Cgroups: a.driver(), Rootless: rootless}, nil
}

// withRuntime is the common shape of the commands that take a container's id first.
func (a *app) withRuntime(f func(*lifecycle.Runtime, []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		r, err := a.runtime()
		if err != nil {
			return err
		}
		return f(r, args)
	}
}

// idFirst accepts the container's id and more.
func idFirst(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s: requires the container's id", cmd.Name())
	}
	return nil
}

// oneID accepts exactly the container's id.
func oneID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: requires exactly one argument, the container's id", cmd.Name())
	}
	return nil
}
