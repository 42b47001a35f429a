package oci

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Sizes of a guest, in bytes.
const (
	// DefaultMemory is the RAM of a guest whose container has no limit. The host backs only what the guest touches.
	DefaultMemory = 512 << 20
	// guestOverhead is what a guest with a limited container has beyond the limit: its kernel, PID 1, and page tables.
	guestOverhead = 128 << 20
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
	if limit := memoryLimit(spec); limit > 0 {
		return checkMemory(uint64(limit) + guestOverhead)
	}
	return DefaultMemory, nil
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

func memoryLimit(spec *specs.Spec) int64 {
	if r := spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		return *r.Memory.Limit
	}
	return 0
}

// CPUs returns how many virtual CPUs the guest gets: the annotation or vm.hwConfig.vcpus says it, else the CPU quota
// rounded up, else the size of the cpuset, else the host's number of CPUs.
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
	if r := spec.Linux.Resources; r != nil && r.CPU != nil {
		if n := quotaCPUs(r.CPU); n > 0 {
			return int(min(n, uint64(host), maxCPUs)), nil
		}
		if r.CPU.Cpus != "" {
			n, err := listSize(r.CPU.Cpus)
			if err != nil {
				return 0, fmt.Errorf("linux.resources.cpu.cpus: %w", err)
			}
			return min(n, host, maxCPUs), nil
		}
	}
	return min(host, maxCPUs), nil
}

const maxCPUs = 64 // what the guest kernel is built for

func quotaCPUs(c *specs.LinuxCPU) uint64 {
	if c.Quota == nil || *c.Quota <= 0 {
		return 0
	}
	period := uint64(100000)
	if c.Period != nil && *c.Period > 0 {
		period = *c.Period
	}
	return (uint64(*c.Quota)-1)/period + 1
}

// listSize counts the members of a list such as "0-2,7", the form of cpuset(7).
func listSize(list string) (int, error) {
	seen := map[int]bool{}
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		a, err := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err != nil || err2 != nil || b < a {
			return 0, fmt.Errorf("%q is not a list such as 0-2,7", list)
		}
		for n := a; n <= b; n++ {
			seen[int(n)] = true
		}
	}
	return len(seen), nil
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
