package cgroup

import (
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// convert turns those limits of a config that the host keeps into the library's form. Memory stands for the whole
// monitor; processes are limited in the guest alone, as the monitor's threads must not count.
func convert(r *specs.LinuxResources, memory int64, v2 bool) *cgroups.Resources {
	out := &cgroups.Resources{SkipDevices: true, Memory: memory}
	if r == nil {
		return out
	}
	if r.Memory != nil {
		convertMemory(r.Memory, memory, out)
	}
	if r.CPU != nil {
		convertCPU(r.CPU, v2, out)
	}
	if r.BlockIO != nil {
		convertBlockIO(r.BlockIO, out)
	}
	for _, l := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	for file, text := range r.Unified {
		if _, alone := GuestKeeps(file); alone {
			continue
		}
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[file] = text
	}
	return out
}

// GuestKeeps says whether a file of cgroup version 2 is one of the guest's, and whether it is not the host's. Those about zswap are
// nobody's: a guest has no swap that could be compressed, and no such files.
func GuestKeeps(file string) (keeps, alone bool) {
	if strings.HasPrefix(file, "memory.zswap.") {
		return false, true
	}
	alone = strings.HasPrefix(file, "memory.") || strings.HasPrefix(file, "pids.")
	return alone || slices.Contains(cpuTime, file), alone
}

// cpuTime are the files for limits of CPU time. What else the host's controller has (cpu.uclamp.min, say) is about CPUs that a guest
// does not see: its kernel has no such file.
var cpuTime = []string{"cpu.idle", "cpu.max", "cpu.max.burst", "cpu.weight", "cpu.weight.nice"}

// convertMemory gives the monitor as much swap as the container may have.
func convertMemory(m *specs.LinuxMemory, memory int64, out *cgroups.Resources) {
	if swap, limit := value(m.Swap), value(m.Limit); memory != 0 {
		out.MemorySwap = swap
		if swap > 0 && limit > 0 && memory > 0 {
			out.MemorySwap = swap - limit + memory
		}
	}
	if m.Reservation != nil {
		out.MemoryReservation = *m.Reservation
	}
}

func convertCPU(c *specs.LinuxCPU, v2 bool, out *cgroups.Resources) {
	if value(c.Idle) == 0 { // the kernel refuses a weight to what is idle, whether this update or one before has made it so
		out.CpuShares = value(c.Shares)
	}
	if v2 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	}
	out.CpuQuota, out.CpuPeriod, out.CpuBurst = value(c.Quota), value(c.Period), c.Burst
	out.CPUIdle = c.Idle
	out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
}

func convertBlockIO(b *specs.LinuxBlockIO, out *cgroups.Resources) {
	out.BlkioWeight, out.BlkioLeafWeight = value(b.Weight), value(b.LeafWeight)
	for _, d := range b.WeightDevice {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, value(d.Weight), value(d.LeafWeight)))
	}
	throttle := func(list []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
		var devices []*cgroups.ThrottleDevice
		for _, d := range list {
			devices = append(devices, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return devices
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

// value is 0, which asks for nothing, for what the config does not say.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
