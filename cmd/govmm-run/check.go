package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "say whether this host can run micro-VMs, and what to do if not",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { fmt.Println(""); return errors.New("not yet") },
	}
}
