package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/oci"
)

var specVersion = specs.Version

// stateView is runc's JSON form of a container's state.
type stateView struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      container.Status  `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func viewOf(c *container.Container) stateView {
	s := c.State
	v := stateView{s.OCIVersion, s.ID, s.PID, c.Status(), s.Bundle, s.Rootfs, s.Created, s.Annotations, s.Owner}
	if v.Status == container.Stopped {
		v.PID = 0
	}
	return v
}

func (a *app) stateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "state ID",
		Short: "print a container's state as JSON",
		Args:  oneID,
		RunE: a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
			c, err := r.State(args[0])
			if err != nil {
				return err
			}
			v := viewOf(c)
			v.Owner = "" // as runc's state has it
			b, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(b)
			return err
		}),
	}
}

func (a *app) listCommand() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "list the containers of this state root",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, _ []string) error {
		all, err := r.Store.List()
		if err != nil {
			r.Log.Warn("some containers cannot be read", "error", err)
		}
		switch {
		case quiet:
			for _, c := range all {
				fmt.Println(c.State.ID)
			}
			return nil
		case format == "json":
			return listJSON(all)
		case format == "table":
			return listTable(all)
		}
		return fmt.Errorf("invalid format option %q: use table or json", format)
	})
	return cmd
}

func listJSON(all []*container.Container) error {
	var views []stateView
	for _, c := range all {
		views = append(views, viewOf(c))
	}
	return json.NewEncoder(os.Stdout).Encode(views)
}

func listTable(all []*container.Container) error {
	w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, c := range all {
		v := viewOf(c)
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", v.ID, v.PID, v.Status, v.Bundle, v.Created.Format(time.RFC3339Nano), v.Owner)
	}
	return w.Flush()
}

func (a *app) psCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "ps [flags] ID [-ef]",
		Short: "list a container's processes, as its guest sees them",
		Args:  idFirst,
	}
	cmd.Flags().SetInterspersed(false) // what follows the id is ps's
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table, or json: the host's process ids")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if format != "table" && format != "json" {
			return fmt.Errorf("invalid format option %q: use table or json", format)
		}
		if rest := args[1:]; len(rest) > 0 && !slices.Equal(rest, []string{"-ef"}) {
			return fmt.Errorf("ps options %q are not supported: the guest's kernel is asked, not its ps; use \"govmm-run exec %s ps ...\"", rest, args[0])
		}
		if format == "json" {
			pids, err := r.HostProcesses(args[0])
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(pids)
		}
		processes, err := r.Processes(args[0])
		if err != nil {
			return err
		}
		return psTable(os.Stdout, processes, time.Now())
	})
	return cmd
}

// psTable prints the columns of ps -ef.
func psTable(out io.Writer, processes []control.Process, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 1, 1, ' ', 0)
	fmt.Fprint(w, "UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD\n")
	for _, p := range processes {
		uid, tty := strconv.FormatUint(uint64(p.UID), 10), p.TTY
		if p.UID == 0 {
			uid = "root" // the names of others are the container's
		}
		if tty == "" {
			tty = "?"
		}
		command := strconv.QuoteToGraphic(p.Command) // no escape sequences of the guest's to the terminal
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%02d:%02d:%02d\t%s\n", uid, p.PID, p.PPID, cpuPercent(p, now),
			time.Unix(p.Started, 0).Format("15:04"), tty, p.CPU/3600, p.CPU/60%60, p.CPU%60, command[1:len(command)-1])
	}
	return w.Flush()
}

// cpuPercent is ps's C: the share of its life that a process has spent on a CPU.
func cpuPercent(p control.Process, now time.Time) int64 {
	return min(100*p.CPU/max(now.Unix()-p.Started, 1), 99)
}

func (a *app) specCommand() *cobra.Command {
	var bundle string
	cmd := &cobra.Command{
		Use:   "spec [flags]",
		Short: "write a config.json to start from; it runs under runc too",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return writeSpec(filepath.Join(bundle, oci.ConfigFile)) },
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "directory of the bundle")
	return cmd
}

// writeSpec leaves a whole config at path or none.
func writeSpec(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if os.IsExist(err) {
		return fmt.Errorf("File %s exists. Remove it first", filepath.Base(path)) // runc's words
	} else if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetIndent("", "\t")
	if err := errors.Join(enc.Encode(oci.Example()), f.Close()); err != nil {
		_ = os.Remove(path)
		return err
	}
	return nil
}

func featuresCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "print what this runtime can do, as the runtime-spec's features JSON",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			enc := json.NewEncoder(os.Stdout)
			enc.SetIndent("", "    ")
			return enc.Encode(oci.Features())
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		Run:   func(*cobra.Command, []string) { fmt.Print(versionText()) },
	}
}
