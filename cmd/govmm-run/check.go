package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm/hostprobe"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "say whether this host can run micro-VMs, and what to do if not",
		Long: `check looks for what a micro-VM needs of this host: a KVM device that can be
opened, its capabilities, that it runs kernel code on the processor rather than
emulating it instruction by instruction, and the right to make namespaces. It prints one line for each, and
what to do about one that is missing.

Its exit status is 0 if this host can run micro-VMs and 1 if it cannot.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return check(cmd.OutOrStdout(), "/dev/kvm") },
	}
}

func check(w io.Writer, device string) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var failed *hostprobe.Check // the first: later ones may follow from it
	for _, c := range append(hostprobe.Host(device), privileges()) {
		verdict := "ok"
		if !c.OK() {
			verdict = "NO"
			if failed == nil {
				failed = &c
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.What, verdict, c.Detail)
	}
	table.Flush()
	if failed != nil {
		fmt.Fprintf(w, "What to do: %s.\n", failed.Remedy)
		return errors.New("this host cannot run micro-VMs")
	}
	fmt.Fprintln(w, "This host can run micro-VMs.")
	return nil
}

// privileges looks for the capability that a monitor's own mount, PID and network namespaces take.
func privileges() hostprobe.Check {
	c := hostprobe.Check{What: "privileges", Detail: "CAP_SYS_ADMIN"}
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		c.Detail, c.Remedy = "capget: "+err.Error(), "run as root"
	} else if sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		c.Detail, c.Remedy = "no CAP_SYS_ADMIN to make namespaces with", "run as root"
	}
	return c
}
