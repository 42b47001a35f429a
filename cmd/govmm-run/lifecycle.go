package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/monitor"
)

// createFlags binds the flags that create and run share.
func createFlags(cmd *cobra.Command, o *lifecycle.CreateOptions) {
	f := cmd.Flags()
	f.StringVarP(&o.Bundle, "bundle", "b", ".", "directory of the bundle")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "Unix socket that receives the terminal's master")
	f.StringVar(&o.PIDFile, "pid-file", "", "file for the monitor's process id")
	f.Bool("no-pivot", false, "accepted for runc's sake: the guest's root is always its own")
	f.Bool("no-new-keyring", false, "accepted for runc's sake: the guest's keyrings are its own")
	f.Int("preserve-fds", 0, "refused unless 0: descriptors cannot be passed into a VM")
}

func checkPreserveFDs(cmd *cobra.Command) error {
	if n, err := cmd.Flags().GetInt("preserve-fds"); err == nil && n != 0 {
		return fmt.Errorf("--preserve-fds %d: descriptors cannot be passed into a VM", n)
	}
	return nil
}

func (a *app) createCommand() *cobra.Command {
	var o lifecycle.CreateOptions
	cmd := &cobra.Command{
		Use:   "create [flags] ID",
		Short: "create a container whose process waits for start",
		Args:  oneID,
	}
	createFlags(cmd, &o)
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if err := checkPreserveFDs(cmd); err != nil {
			return err
		}
		o.ID = args[0]
		if err := r.Create(o); err != nil {
			return fmt.Errorf("govmm-run create failed: %w", err)
		}
		return nil
	})
	return cmd
}

func (a *app) runCommand() *cobra.Command {
	var o lifecycle.RunOptions
	cmd := &cobra.Command{
		Use:   "run [flags] ID",
		Short: "create and start a container, wait for it and exit with its status",
		Args:  oneID,
	}
	createFlags(cmd, &o.CreateOptions)
	cmd.Flags().BoolVarP(&o.Detach, "detach", "d", false, "do not wait for the container")
	cmd.Flags().StringVar((*string)(&o.Phases), "phases", "", "print on standard error where the time of the start went: a table, or lines for programs")
	cmd.Flags().Lookup("phases").NoOptDefVal = string(monitor.PhaseTable)
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the stopped container for state and delete")
	cmd.Flags().Bool("no-subreaper", false, "accepted for runc's sake")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if err := checkPreserveFDs(cmd); err != nil {
			return err
		}
		if o.Phases != "" && o.Phases != monitor.PhaseTable && o.Phases != monitor.PhaseLines {
			return fmt.Errorf("--phases=%s: use %s or %s", o.Phases, monitor.PhaseTable, monitor.PhaseLines)
		}
		o.ID, o.Begin = args[0], a.begin
		status, err := r.Run(o)
		if err != nil {
			return lifecycle.RunFailed(fmt.Errorf("govmm-run run failed: %w", err))
		}
		a.status = status
		return nil
	})
	return cmd
}

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "start ID",
		Short: "let a created container's process run",
		Args:  oneID,
		RunE:  a.withRuntime(func(r *lifecycle.Runtime, args []string) error { return r.Start(args[0]) }),
	}
}

func (a *app) killCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "kill [flags] ID [SIGNAL]",
		Short: "send a signal (SIGTERM by default) to a container's process",
		Example: `  govmm-run kill web
  govmm-run kill web KILL
  govmm-run kill --all web 15`,
		Args: cobra.RangeArgs(1, 2),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "send it to all of the container's processes")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		name := "SIGTERM"
		if len(args) == 2 {
			name = args[1]
		}
		if _, err := r.State(args[0]); err != nil {
			return err
		}
		s, err := parseSignal(name)
		if err != nil {
			return err
		}
		return r.Kill(args[0], s, all)
	})
	return cmd
}

// parseSignal reads a number, NAME or SIGNAME, real-time ones (RTMIN+3) included.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	const rtMin, rtMax = 34, 64 // as glibc numbers them
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+")); err == nil && rtMin+n <= rtMax {
			return unix.Signal(rtMin + n), nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "-")); err == nil && rtMax-n >= rtMin {
			return unix.Signal(rtMax - n), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (a *app) deleteCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete [flags] ID",
		Short: "remove what a stopped container has left",
		Args:  oneID,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill the container if it runs; do not mind if there is none")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error { return r.Delete(args[0], force) })
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pause ID",
		Short: "stop a container's virtual CPUs",
		Args:  oneID,
		RunE:  a.withRuntime(func(r *lifecycle.Runtime, args []string) error { return r.Pause(args[0]) }),
	}
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume ID",
		Short: "let a paused container go on",
		Args:  oneID,
		RunE:  a.withRuntime(func(r *lifecycle.Runtime, args []string) error { return r.Resume(args[0]) }),
	}
}
