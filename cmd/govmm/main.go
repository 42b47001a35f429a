// The Go runtime need not read the cgroup's CPU limit at every start: boot sets GOMAXPROCS by what the guest has.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// govmm boots Linux in a plain micro-VM with its console on this terminal.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/govmm/govmm/runtime/version"
)

func main() {
	if err := rootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "govmm:", err)
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "govmm",
		Short: "boot Linux in a micro-VM",
		Long: `govmm boots Linux in a micro-VM on KVM, with its console on this terminal.

For containers, see govmm-run.`,
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(bootCommand())
	return root
}
