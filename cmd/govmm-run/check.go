package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/govmm/govmm/kvm/hostprobe"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "say whether this host can run micro-VMs, and what to do if not",
		Long: `check looks for what a micro-VM needs of this host: a KVM device that can be
opened, its capabilities, and that it runs kernel code on the processor rather
than emulating it instruction by instruction. It prints one line for each, and
what to do about one that is missing.

Its exit status is 0 if this host can run micro-VMs and 1 if it cannot.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return check(cmd.OutOrStdout(), "/dev/kvm") },
	}
}

func check(w io.Writer, device string) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var failed *hostprobe.Check
	for _, c := range hostprobe.Host(device) {
		verdict := "ok"
		if !c.OK() {
			verdict, failed = "NO", &c
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
