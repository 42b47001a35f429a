package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/lifecycle"
)

func (a *app) eventsCommand() *cobra.Command {
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "events [flags] ID",
		Short: "print what a container uses, and when its memory limit kills, as JSON",
		Long: `events prints a line of JSON every few seconds, in runc's form, until the container ends. CPU time and block I/O
are those of the monitor on the host, all the guest included; memory and processes are the container's own, in the guest.`,
		Args: oneID,
	}
	cmd.Flags().BoolVar(&once, "stats", false, "print one line and end")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two lines")
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if interval <= 0 {
			return errors.New("duration interval must be greater than 0")
		}
		c, err := r.State(args[0])
		if err != nil {
			return err
		}
		if c.Status() == container.Stopped {
			return fmt.Errorf("container with id %s is not running", args[0])
		}
		enc := json.NewEncoder(os.Stdout)
		if !once {
			return r.Watch(c, interval, func(e lifecycle.Event) error { return enc.Encode(e) })
		}
		stats, err := r.Stats(c)
		if err != nil {
			return err
		}
		return enc.Encode(lifecycle.Event{Type: "stats", ID: args[0], Data: stats})
	})
	return cmd
}
