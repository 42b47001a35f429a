package lifecycle

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/network"
)

// Event is a line of runc's events.
type Event struct {
	Type string `json:"type"` // stats or oom
	ID   string `json:"id"`
	Data *Stats `json:"data,omitempty"`
}

// Stats has runc's form, types.Stats there; what neither the host nor the guest counts is left at 0.
type Stats struct {
	CPU               CPUStats               `json:"cpu"`
	CPUSet            cgroups.CPUSetStats    `json:"cpuset"`
	Memory            MemoryStats            `json:"memory"`
	Pids              PidsStats              `json:"pids"`
	Blkio             BlkioStats             `json:"blkio"`
	Hugetlb           map[string]HugetlbStat `json:"hugetlb"`
	IntelRdt          struct{}               `json:"intel_rdt"`
	NetworkInterfaces []NetworkInterface     `json:"network_interfaces"`

	oomKills uint64
}

// CPUStats is the monitor's, its vCPUs included.
type CPUStats struct {
	Usage struct {
		Total        uint64   `json:"total,omitempty"`
		PerCPU       []uint64 `json:"percpu,omitempty"`
		PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
		PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"` // nanoseconds
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *cgroups.PSIStats `json:"psi,omitempty"`
}

// MemoryStats is the container's, as the guest counts.
type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"`
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

// MemoryEntry is in bytes.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PidsStats is the container's, as the guest counts.
type PidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlkioStats is what the monitor moved for its guest's files.
type BlkioStats struct {
	ServiceBytes []BlkioEntry      `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlkioEntry      `json:"ioServicedRecursive,omitempty"`
	PSI          *cgroups.PSIStats `json:"psi,omitempty"`
}

// BlkioEntry is one device's.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// HugetlbStat is one page size's.
type HugetlbStat struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// NetworkInterface is an interface of the container's network namespace, as the host counts it; runc's has no other names in JSON either.
// runc shows those that it made itself, which is none.
type NetworkInterface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Stats asks host and guest for what a container uses.
func (r *Runtime) Stats(c *container.Container) (*Stats, error) {
	reply, err := call(c, control.Request{Op: control.OpStats})
	if err != nil {
		return nil, notRunning(c, err)
	}
	s := &Stats{Hugetlb: map[string]HugetlbStat{}}
	s.addGuest(reply.Stats)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", c.State.PID)); err == nil {
		s.addNetwork(string(b))
	}
	if c.State.Cgroup == nil {
		return s, s.addProcess(c.State.PID)
	}
	host, err := c.State.Cgroup.Stats()
	if err != nil {
		return nil, err
	}
	s.addHost(host)
	return s, nil
}

func (s *Stats) addHost(host *cgroups.Stats) {
	u := host.CpuStats.CpuUsage
	s.CPU.Usage.Total, s.CPU.Usage.Kernel, s.CPU.Usage.User = u.TotalUsage, u.UsageInKernelmode, u.UsageInUsermode
	s.CPU.Usage.PerCPU, s.CPU.Usage.PerCPUKernel, s.CPU.Usage.PerCPUUser = u.PercpuUsage, u.PercpuUsageInKernelmode, u.PercpuUsageInUsermode
	t := host.CpuStats.ThrottlingData
	s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods, s.CPU.Throttling.ThrottledTime = t.Periods, t.ThrottledPeriods, t.ThrottledTime
	s.CPU.PSI, s.Blkio.PSI = host.CpuStats.PSI, host.BlkioStats.PSI
	s.CPUSet = host.CPUSetStats
	s.Blkio.ServiceBytes, s.Blkio.Serviced = blkio(host.BlkioStats.IoServiceBytesRecursive), blkio(host.BlkioStats.IoServicedRecursive)
	for size, h := range host.HugetlbStats {
		s.Hugetlb[size] = HugetlbStat{h.Usage, h.MaxUsage, h.Failcnt}
	}
}

func blkio(list []cgroups.BlkioStatEntry) []BlkioEntry {
	var out []BlkioEntry
	for _, e := range list {
		out = append(out, BlkioEntry(e))
	}
	return out
}

// clockTicks is USER_HZ, the unit of times in /proc, on every architecture that Linux has KVM for.
const clockTicks = 100

// addProcess counts the monitor itself where it has no cgroup (proc(5): fields 14 and 15 of /proc/pid/stat).
func (s *Stats) addProcess(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ErrNotRunning
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	const tick = uint64(time.Second / clockTicks)
	s.CPU.Usage.User, s.CPU.Usage.Kernel = number(fields[11])*tick, number(fields[12])*tick
	s.CPU.Usage.Total = s.CPU.Usage.User + s.CPU.Usage.Kernel
	return nil
}

// addGuest reads the files of the guest's cgroup, whose text is the guest's: what is no number counts as 0.
func (s *Stats) addGuest(files map[string]string) {
	s.Memory.Raw = table(files["memory.stat"])
	s.Memory.Cache = s.Memory.Raw["file"]
	s.Memory.Usage = MemoryEntry{Limit: number(files["memory.max"]), Usage: number(files["memory.current"]), Max: number(files["memory.peak"])}
	s.Memory.Swap = MemoryEntry{Limit: number(files["memory.swap.max"]), Usage: number(files["memory.swap.current"]) + s.Memory.Usage.Usage}
	if sum := s.Memory.Swap.Limit + s.Memory.Usage.Limit; sum >= s.Memory.Usage.Limit {
		s.Memory.Swap.Limit = sum
	} else {
		s.Memory.Swap.Limit = math.MaxUint64 // one of them is no limit
	}
	events := table(files["memory.events"])
	s.oomKills = events["oom_kill"]
	s.Pids.Current, s.Pids.Limit = number(files["pids.current"]), number(files["pids.max"])
	if s.Pids.Limit == math.MaxUint64 {
		s.Pids.Limit = 0 // as runc shows none
	}
}

// addNetwork reads /proc/pid/net/dev: after two lines of headings a line for each interface, eight numbers of what it received and eight of what
// it sent. The loopback is the guest's own, the TAPs are what its interfaces are connected by.
func (s *Stats) addNetwork(text string) {
	for line := range strings.Lines(text) {
		name, numbers, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(numbers)
		if !ok || len(f) < 12 || name == "lo" || network.IsTAP(name) {
			continue
		}
		s.NetworkInterfaces = append(s.NetworkInterfaces, NetworkInterface{
			name, number(f[0]), number(f[1]), number(f[2]), number(f[3]), number(f[8]), number(f[9]), number(f[10]), number(f[11]),
		})
	}
}

func number(text string) uint64 {
	text = strings.TrimSpace(text)
	if text == "max" {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// table reads lines of a name and a number.
func table(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 {
			out[f[0]] = number(f[1])
		}
	}
	return out
}

// Watch reports what a container uses, every interval, and each kill by its memory limit, until it ends.
func (r *Runtime) Watch(c *container.Container, interval time.Duration, report func(Event) error) error {
	fd, err := unix.PidfdOpen(c.State.PID, 0)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	kills := uint64(0)
	for next := time.Now().Add(interval); ; next = next.Add(interval) {
		if ended, err := waitEnd(fd, next); err != nil {
			return err
		} else if ended || c.Status() == container.Stopped {
			if c.State.Cgroup != nil && c.State.Cgroup.OOMKills() > 0 && kills == 0 {
				return report(Event{Type: "oom", ID: c.State.ID})
			}
			return nil
		}
		stats, err := r.Stats(c)
		if errors.Is(err, ErrNotRunning) {
			continue // its end is to be seen at once
		} else if err != nil {
			return err
		}
		if stats.oomKills > kills {
			kills = stats.oomKills
			if err := report(Event{Type: "oom", ID: c.State.ID}); err != nil {
				return err
			}
		}
		if err := report(Event{Type: "stats", ID: c.State.ID, Data: stats}); err != nil {
			return err
		}
	}
}

// waitEnd waits for the end of a process until a moment.
func waitEnd(fd int, until time.Time) (bool, error) {
	for {
		ms := max(time.Until(until).Milliseconds(), 0)
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(min(ms, math.MaxInt32)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, os.NewSyscallError("poll", err)
	}
}
