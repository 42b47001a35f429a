package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/govmm/govmm/runtime/lifecycle"
	"github.com/govmm/govmm/runtime/oci"
)

func (a *app) updateCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "update [flags] ID",
		Short: "change the limits of a container that has not stopped",
		Long: `update changes limits while the container runs. What is not given, or given as 0, stays as it is; -1 takes a
limit of memory, CPU time or processes away. A memory limit cannot be raised beyond what the guest was made for.`,
		Example: `  govmm-run update --memory 256M --memory-swap 256M --pids-limit 100 web
  echo '{"cpu": {"quota": 50000, "period": 100000}}' | govmm-run update -r - web`,
		Args: oneID,
	}
	f := cmd.Flags()
	f.StringVarP(&file, "resources", "r", "", "file with linux.resources as JSON, - for standard input; other flags are ignored then")
	resources := updateFlags(f)
	cmd.RunE = a.withRuntime(func(r *lifecycle.Runtime, args []string) error {
		if _, err := r.State(args[0]); err != nil {
			return err
		}
		change := resources
		if file != "" {
			var err error
			if change, err = readResources(file); err != nil {
				return err
			}
		}
		return r.Update(args[0], change)
	})
	return cmd
}

// updateFlags defines runc's flags, each of which sets its field of what is returned.
func updateFlags(f *pflag.FlagSet) *specs.LinuxResources {
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{}, Pids: &specs.LinuxPids{},
	}
	f.VarP(size{&r.Memory.Limit}, "memory", "", "memory limit, in bytes or with a suffix K, M or G")
	f.Var(size{&r.Memory.Swap}, "memory-swap", "limit of memory and swap together")
	f.Var(size{&r.Memory.Reservation}, "memory-reservation", "memory that is kept for the container")
	f.Var(number[uint64]{&r.CPU.Shares}, "cpu-share", "relative weight of CPU time (2 to 262144)")
	f.Var(number[uint64]{&r.CPU.Shares}, "cpu-shares", "the same")
	f.Var(number[int64]{&r.CPU.Quota}, "cpu-quota", "CPU time in each period, in microseconds")
	f.Var(number[uint64]{&r.CPU.Period}, "cpu-period", "length of a period, in microseconds")
	f.Var(number[uint64]{&r.CPU.Burst}, "cpu-burst", "CPU time that may be saved up, in microseconds")
	f.Var(number[int64]{&r.CPU.Idle}, "cpu-idle", "1 to run only when nobody else wants to")
	f.Var(number[uint64]{&r.CPU.RealtimePeriod}, "cpu-rt-period", "refused: real-time groups are not supported")
	f.Var(number[int64]{&r.CPU.RealtimeRuntime}, "cpu-rt-runtime", "refused: real-time groups are not supported")
	f.StringVar(&r.CPU.Cpus, "cpuset-cpus", "", "host CPUs to run on, such as 0-2,7")
	f.StringVar(&r.CPU.Mems, "cpuset-mems", "", "memory nodes of the host")
	f.Var(number[int64]{&r.Pids.Limit}, "pids-limit", "number of processes")
	f.Var(number[uint16]{&r.BlockIO.Weight}, "blkio-weight", "relative weight of block I/O (10 to 1000)")
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp"} {
		f.String(name, "", "ignored, as by runc")
		_ = f.MarkHidden(name)
	}
	return r
}

// number is a flag for an optional number of the config.
type number[T int64 | uint64 | uint16] struct{ to **T }

func (n number[T]) Set(s string) error {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < 0 && T(0)-1 > 0 || int64(T(v)) != v {
		return fmt.Errorf("%q is not a number that fits", s)
	}
	t := T(v)
	*n.to = &t
	return nil
}

func (n number[T]) String() string {
	if n.to == nil || *n.to == nil {
		return ""
	}
	return fmt.Sprint(**n.to)
}

// Type names the value in the help.
func (n number[T]) Type() string { return "number" }

// size is a flag for an optional number of bytes.
type size struct{ to **int64 }

func (n size) Set(s string) error {
	v := int64(-1)
	if s != "-1" {
		u, err := oci.ParseSize(s)
		if err != nil {
			return err
		}
		v = int64(u)
	}
	*n.to = &v
	return nil
}

func (n size) String() string { return number[int64](n).String() }

// Type names the value in the help.
func (n size) Type() string { return "size" }

func readResources(file string) (*specs.LinuxResources, error) {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var r specs.LinuxResources
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return &r, nil
}
