package seccomp

import (
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// actions are the return values of a filter (seccomp(2)), by the names of the runtime-spec (config-linux.md, Seccomp).
// SCMP_ACT_NOTIFY is not among them: its listener would have to reach a process of the host.
var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill:        unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
	specs.ActTrap:        unix.SECCOMP_RET_TRAP,
	specs.ActErrno:       unix.SECCOMP_RET_ERRNO,
	specs.ActTrace:       unix.SECCOMP_RET_TRACE,
	specs.ActLog:         unix.SECCOMP_RET_LOG,
	specs.ActAllow:       unix.SECCOMP_RET_ALLOW,
}

// operators lists the comparisons of an argument.
var operators = []specs.LinuxSeccompOperator{
	specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual,
	specs.OpNotEqual,
}

// architectures lists the names that runc knows. Only those of x86 mean anything to an x86-64 guest.
var architectures = []specs.Arch{
	specs.ArchAARCH64, specs.ArchARM, specs.ArchLOONGARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE,
	specs.ArchRISCV64, specs.ArchS390, specs.ArchS390X, specs.ArchX32, specs.ArchX86, specs.ArchX86_64,
}

// flagTSync has no constant in the runtime-spec. It changes nothing: the thread that installs the filter executes the
// program, which ends every other.
const flagTSync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// flags are the flags of seccomp(2). SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is left out: the kernel takes it only with
// a listener.
var flags = map[specs.LinuxSeccompFlag]uint32{
	flagTSync:                       0,
	specs.LinuxSeccompFlagLog:       unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}

// Actions returns the names of the actions that Compile takes, sorted.
func Actions() []string { return sorted(slices.Collect(maps.Keys(actions))) }

// Operators returns the names of the operators that Compile takes, sorted.
func Operators() []string { return sorted(operators) }

// Architectures returns the names of the architectures that Compile takes, sorted.
func Architectures() []string { return sorted(architectures) }

// Flags returns the names of the flags that Compile takes, and of those that it knows.
func Flags() (supported, known []string) {
	supported = []string{string(flagTSync), string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagLog)}
	return supported, append(slices.Clone(supported), string(specs.LinuxSeccompFlagWaitKillableRecv))
}

func sorted[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	slices.Sort(out)
	return out
}
