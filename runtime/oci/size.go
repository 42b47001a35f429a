package oci

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Sizes of a guest, in bytes.
const (
	// DefaultMemory is the RAM of a guest whose container has no limit. The host backs only what the guest touches.
	DefaultMemory = 512 << 20
	// guestOverhead is what a guest with a limited container has beyond the limit: its kernel, PID 1, and page tables.
	guestOverhead = 128 << 20
	// kernelMemory is what of a guest's RAM its kernel and PID 1 need at least.
	kernelMemory = 48 << 20
	// monitorOverhead is what the host allows a limited container's monitor beyond the guest's RAM: its heap, the streams
	// and requests under way, and the page cache of the files that it serves, which the kernel takes back at need.
	monitorOverhead = 64 << 20
	// networkOverhead is what it allows the process of a network in user mode, with all that may be buffered of connections.
	networkOverhead = 128 << 20
	// MinMemory is the least RAM that the guest kernel and PID 1 start in.
	MinMemory = 64 << 20

	pageSize = 2 << 20 // RAM is a whole number of huge pages
)

// Memory returns how much RAM the guest gets, in bytes: the annotation or vm.hwConfig.memory says it, else the memory
// limit and an overhead, else DefaultMemory.
func Memory(spec *specs.Spec) (uint64, error) {
	if text, ok := spec.Annotations[AnnotationMemory]; ok {
		n, err := ParseSize(text)
		if err != nil {
			return 0, fmt.Errorf("annotation %s: %w", AnnotationMemory, err)
		}
		return checkMemory(n)
	}
	if hw := hardware(spec); hw.Memory != nil {
		return checkMemory(*hw.Memory)
	}
	if limit := memoryLimit(spec.Linux.Resources); limit > 0 {
		// A limit beyond the host's memory is none: containers could not use more under any runtime.
		return checkMemory(RAMFor(min(uint64(limit), max(hostMemory(), MinMemory))))
	}
	return DefaultMemory, nil
}

// RAMFor returns the RAM, in bytes, of a guest in which so many bytes are the container's: the overhead comes on top, and of every
// 64 pages the kernel keeps one for what it knows of them (struct page).
func RAMFor(limit uint64) uint64 { return (limit + guestOverhead) / 63 * 64 }

// LimitFor is the highest memory limit that a guest with so much RAM can keep.
func LimitFor(ram uint64) uint64 { return ram/64*63 - kernelMemory }

// HostMemory returns what bounds the monitor of a container with a memory limit, in bytes: its guest's RAM, of which the
// guest may touch everything, and the monitor itself. It is -1 for no bound and 0 for one that the config leaves alone.
func HostMemory(spec *specs.Spec) (int64, error) {
	limit := memoryLimit(spec.Linux.Resources)
	if limit <= 0 {
		return limit, nil
	}
	ram, err := Memory(spec)
	return Bound(spec, ram), err
}

// Bound is the bound for a guest with so much RAM.
func Bound(spec *specs.Spec, ram uint64) int64 {
	if _, ok, _ := UserNetwork(spec); ok {
		ram += networkOverhead
	}
	return int64(ram + monitorOverhead)
}

// MaxMemory returns how much RAM the guest may be given while it runs, in bytes: what the annotation says, up to the host's. Without it,
// it is enough for any memory limit that means something on this host, and 0 for a guest whose RAM the config says.
func MaxMemory(spec *specs.Spec) (uint64, error) {
	text, ok := spec.Annotations[AnnotationMaxMemory]
	if !ok {
		if _, fixed := spec.Annotations[AnnotationMemory]; fixed || hardware(spec).Memory != nil {
			return 0, nil
		}
		return checkMemory(RAMFor(HostRAM()))
	}
	n, err := ParseSize(text)
	if err != nil {
		return 0, fmt.Errorf("annotation %s: %w", AnnotationMaxMemory, err)
	}
	return min(n&^(pageSize-1), HostRAM()), nil
}

// AsksForMemory says whether the guest itself asks for more RAM when it runs short. With a limit it has from the start what the
// container may use.
func AsksForMemory(spec *specs.Spec) bool {
	_, told := spec.Annotations[AnnotationMaxMemory]
	return told || memoryLimit(spec.Linux.Resources) <= 0
}

// HostRAM returns the RAM of this machine in bytes, in whole huge pages: no guest gets more.
func HostRAM() uint64 { return min(hostMemory(), 1<<45) &^ (pageSize - 1) }

// hostMemory returns how much memory this machine has, in bytes.
var hostMemory = func() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 46
	}
	return info.Totalram * uint64(info.Unit)
}

// hardware returns vm.hwConfig, empty if there is none.
func hardware(spec *specs.Spec) specs.HWConfig {
	if spec.VM == nil || spec.VM.HwConfig == nil {
		return specs.HWConfig{}
	}
	return *spec.VM.HwConfig
}

func checkMemory(n uint64) (uint64, error) {
	if n < MinMemory {
		return 0, fmt.Errorf("guest memory of %d bytes is too small: at least %d MiB are needed", n, MinMemory>>20)
	}
	if n > 1<<46 {
		return 0, fmt.Errorf("guest memory of %d bytes is more than a process can map", n)
	}
	return (n + pageSize - 1) &^ (pageSize - 1), nil
}

// memoryLimit is the container's limit: -1 for none, 0 if the config says nothing. That of a file wins, as under runc.
func memoryLimit(r *specs.LinuxResources) int64 {
	if r == nil {
		return 0
	}
	if text, ok := r.Unified["memory.max"]; ok {
		if n, err := fileNumber(text); err == nil {
			return n
		}
	}
	if r.Memory == nil {
		return 0
	}
	return value(r.Memory.Limit)
}

// fileNumber reads what a cgroup's file of a limit holds, -1 for max.
func fileNumber(text string) (int64, error) {
	text = strings.TrimSpace(text)
	if text == "max" {
		return -1, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor max", text)
	}
	return int64(n), nil
}

// CPUs returns how many virtual CPUs the guest gets: the annotation or vm.hwConfig.vcpus says it, else the CPU quota
// rounded up or the size of the cpuset, the smaller of the two, else the host's number of CPUs.
func CPUs(spec *specs.Spec) (int, error) {
	host := runtime.NumCPU()
	if text, ok := spec.Annotations[AnnotationCPUs]; ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxCPUs {
			return 0, fmt.Errorf("annotation %s: %q is not a number between 1 and %d", AnnotationCPUs, text, maxCPUs)
		}
		return n, nil
	}
	if hw := hardware(spec); hw.VCPUs != nil {
		if n := int(*hw.VCPUs); n >= 1 && n <= maxCPUs {
			return n, nil
		}
		return 0, fmt.Errorf("vm.hwConfig.vcpus: %d is not between 1 and %d", *hw.VCPUs, maxCPUs)
	}
	count := min(host, maxCPUs)
	if r := spec.Linux.Resources; r != nil && r.CPU != nil {
		if n := quotaCPUs(r.CPU); n > 0 {
			count = int(min(n, uint64(count)))
		}
		if r.CPU.Cpus != "" {
			members, err := parseList(r.CPU.Cpus)
			if err != nil {
				return 0, fmt.Errorf("linux.resources.cpu.cpus: %w", err)
			}
			count = min(count, len(members))
		}
	}
	return count, nil
}

const (
	maxCPUs   = 64     // what the guest kernel is built for
	cfsPeriod = 100000 // microseconds: the period of a quota of CPU time that names none
)

func quotaCPUs(c *specs.LinuxCPU) uint64 {
	if c.Quota == nil || *c.Quota <= 0 {
		return 0
	}
	period := uint64(cfsPeriod)
	if c.Period != nil && *c.Period > 0 {
		period = *c.Period
	}
	return (uint64(*c.Quota)-1)/period + 1
}

// parseList returns the members of a list such as "0-2,7", the form of cpuset(7).
func parseList(list string) (members map[int]bool, err error) {
	members = map[int]bool{}
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		a, err := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err != nil || err2 != nil || b < a {
			return nil, fmt.Errorf("%q is not a list such as 0-2,7", list)
		}
		for n := a; n <= b; n++ {
			members[int(n)] = true
		}
	}
	return members, nil
}

// ParseSize reads a number of bytes with an optional suffix K, M or G (powers of 1024).
func ParseSize(s string) (uint64, error) {
	shift := 0
	digits := s
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		}
	}
	if shift > 0 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is not a size: write a number and K, M or G", s)
	}
	return n << shift, nil
}
