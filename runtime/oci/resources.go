package oci

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/cgroup"
)

// GuestResources are the limits that the guest's cgroup keeps. Those of CPU time are the host's as well: the guest counts
// time that the host does not run it as stolen, not as used, so that it does not throttle for it once more.
func GuestResources(r *specs.LinuxResources) agent.Resources {
	var out agent.Resources
	if r == nil {
		return out
	}
	out.MemoryMax = memoryLimit(r)
	if m := r.Memory; m != nil {
		out.MemorySwap, out.MemoryLow = value(m.Swap), value(m.Reservation)
		out.Check = m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate
	}
	if r.Pids != nil {
		out.PidsMax = value(r.Pids.Limit)
	}
	if r.CPU != nil {
		out.Files = cpuFiles(r.CPU)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		n, err := fileNumber(r.Unified[name])
		keeps, _ := cgroup.GuestKeeps(name)
		switch {
		case !keeps, name == "memory.max":
		case name == "pids.max" && err == nil && n != 0:
			out.PidsMax = n // it comes into force with the process, as the field's does
		default:
			out.Files = append(out.Files, agent.File{Name: name, Value: r.Unified[name]})
		}
	}
	return out
}

// cpuFiles are the guest's files for what cgroup.convert asks of the host. The burst goes first to 0 and last to what it is
// to be: it may be above neither the quota before nor the one after.
func cpuFiles(c *specs.LinuxCPU) []agent.File {
	var out []agent.File
	add := func(name, text string) { out = append(out, agent.File{Name: "cpu." + name, Value: text}) }
	if c.Idle != nil {
		add("idle", strconv.FormatInt(*c.Idle, 10))
	}
	// The kernel refuses a weight to what is idle.
	if weight := cgroups.ConvertCPUSharesToCgroupV2Value(value(c.Shares)); weight != 0 && value(c.Idle) == 0 {
		add("weight", strconv.FormatUint(weight, 10))
	}
	quota, period := value(c.Quota), value(c.Period)
	limited := quota != 0 || period != 0
	if c.Burst != nil && limited {
		add("max.burst", "0")
	}
	if limited {
		text := "max"
		if quota > 0 {
			text = strconv.FormatInt(quota, 10)
		}
		if period == 0 {
			period = cfsPeriod
		}
		add("max", text+" "+strconv.FormatUint(period, 10))
	}
	if c.Burst != nil {
		add("max.burst", strconv.FormatUint(*c.Burst, 10))
	}
	return out
}

// UpdateResources returns the limits of a container after an update: what the change leaves out or gives as 0 stays, as
// under runc.
func UpdateResources(old, change *specs.LinuxResources) (*specs.LinuxResources, error) {
	if err := checkValue("linux.resources", reflect.ValueOf(change).Elem()); err != nil {
		return nil, err
	}
	now := foldFiles(old)
	out := &now
	out.Memory = updateMemory(out.Memory, change.Memory)
	out.CPU = updateCPU(out.CPU, change.CPU)
	if change.Pids != nil && value(change.Pids.Limit) != 0 {
		out.Pids = change.Pids
	}
	if change.BlockIO != nil {
		out.BlockIO = updateBlockIO(out.BlockIO, change.BlockIO)
	}
	if len(change.HugepageLimits) > 0 {
		out.HugepageLimits = change.HugepageLimits
	}
	out.Unified = change.Unified
	return out, checkResources(out)
}

// pick is the new value, unless it is missing or 0.
func pick[T comparable](old, change *T) *T {
	var zero T
	if change != nil && *change != zero {
		return change
	}
	return old
}

func updateMemory(old, change *specs.LinuxMemory) *specs.LinuxMemory {
	if change == nil {
		return old
	}
	out := specs.LinuxMemory{}
	if old != nil {
		out = *old
	}
	swap := change.Swap
	if none := int64(-1); value(change.Limit) == none && swap == nil {
		swap = &none // as runc has it
	}
	out.Limit = pick(out.Limit, change.Limit)
	out.Swap = pick(out.Swap, swap)
	out.Reservation = pick(out.Reservation, change.Reservation)
	out.CheckBeforeUpdate = change.CheckBeforeUpdate
	return &out
}

func updateCPU(old, change *specs.LinuxCPU) *specs.LinuxCPU {
	if change == nil {
		return old
	}
	out := specs.LinuxCPU{}
	if old != nil {
		out = *old
	}
	out.Shares, out.Quota, out.Period = pick(out.Shares, change.Shares), pick(out.Quota, change.Quota), pick(out.Period, change.Period)
	if change.Burst != nil {
		out.Burst = change.Burst
	}
	if change.Idle != nil {
		out.Idle = change.Idle
	}
	if change.Cpus != "" {
		out.Cpus = change.Cpus
	}
	if change.Mems != "" {
		out.Mems = change.Mems
	}
	return &out
}

func updateBlockIO(old, change *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	out := specs.LinuxBlockIO{}
	if old != nil {
		out = *old
	}
	out.Weight, out.LeafWeight = pick(out.Weight, change.Weight), pick(out.LeafWeight, change.LeafWeight)
	if len(change.WeightDevice) > 0 {
		out.WeightDevice = change.WeightDevice
	}
	for _, list := range []struct{ old, change *[]specs.LinuxThrottleDevice }{
		{&out.ThrottleReadBpsDevice, &change.ThrottleReadBpsDevice}, {&out.ThrottleWriteBpsDevice, &change.ThrottleWriteBpsDevice},
		{&out.ThrottleReadIOPSDevice, &change.ThrottleReadIOPSDevice}, {&out.ThrottleWriteIOPSDevice, &change.ThrottleWriteIOPSDevice},
	} {
		if len(*list.change) > 0 {
			*list.old = *list.change
		}
	}
	return &out
}

// foldFiles makes fields of the limits that were given as files: files are written once, as under runc.
func foldFiles(old *specs.LinuxResources) specs.LinuxResources {
	if old == nil {
		return specs.LinuxResources{}
	}
	out := *old
	out.Unified = nil
	g := GuestResources(old)
	if out.Memory != nil || g.MemoryMax != 0 {
		m := value(out.Memory)
		m.Limit, m.CheckBeforeUpdate = &g.MemoryMax, nil
		out.Memory = &m
	}
	if g.PidsMax != 0 {
		out.Pids = &specs.LinuxPids{Limit: &g.PidsMax}
	}
	if out.CPU != nil {
		c := *out.CPU
		out.CPU = &c
	}
	for name, text := range old.Unified {
		foldFile(&out, name, strings.Fields(text))
	}
	return out
}

// foldFile has a file's field say what the file says, or nothing where it cannot: an update must not write what is in force no more.
// r.CPU and r.Memory are not shared with others.
func foldFile(r *specs.LinuxResources, name string, words []string) {
	c, m := r.CPU, r.Memory
	if strings.HasPrefix(name, "cpu.") && c == nil || strings.HasPrefix(name, "memory.") && m == nil || len(words) == 0 {
		return
	}
	n, err := fileNumber(words[0])
	switch name {
	case "cpu.max":
		if err == nil {
			c.Quota = &n
		}
		if len(words) > 1 {
			if period, err := strconv.ParseUint(words[1], 10, 64); err == nil {
				c.Period = &period
			}
		}
	case "cpu.max.burst":
		if burst, err := strconv.ParseUint(words[0], 10, 64); err == nil {
			c.Burst = &burst
		}
	case "cpu.idle":
		if err == nil {
			c.Idle = &n
		}
	case "cpu.weight", "cpu.weight.nice":
		c.Shares = nil
	case "memory.low":
		m.Reservation = nil
	case "memory.swap.max":
		m.Swap = nil
	}
}

func checkUnified(files map[string]string) error {
	for name, text := range files {
		if controller, _, ok := strings.Cut(name, "."); !ok || controller == "" || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("linux.resources.unified: %q is not a cgroup's file", name)
		}
		if name != "memory.max" {
			continue
		}
		if _, err := fileNumber(text); err != nil {
			return fmt.Errorf("linux.resources.unified: %s: %w", name, err)
		}
	}
	return nil
}
