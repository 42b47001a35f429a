package seccomp

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// agree compares a filter with the reference for one system call.
func agree(t *testing.T, p *specs.LinuxSeccomp, filter []agent.Instruction, d *data) bool {
	t.Helper()
	got, _, err := execute(filter, d)
	if want := (reference{p}).action(d); err != nil || got != want {
		t.Errorf("%+v: filter says %#x, %v, the profile %#x: %+v", *d, got, err, want, p)
		return false
	}
	return true
}

// privileged are calls that an engine's profile keeps from a container without capabilities.
var privileged = strings.Fields(`acct add_key bpf clock_adjtime clock_settime clone3 create_module delete_module fanotify_init
	finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl
	lookup_dcookie mbind mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open
	personality pivot_root process_vm_readv process_vm_writev ptrace query_module quotactl reboot request_key
	set_mempolicy setdomainname sethostname setns settimeofday socket stime swapoff swapon sysfs syslog umount umount2
	unshare uselib userfaultfd ustat vhangup vm86 vm86old clone`)

// bigProfile is a profile of the size and shape of those of the engines: everything but what is privileged is allowed,
// and some calls depend on their arguments.
func bigProfile() *specs.LinuxSeccomp {
	var names []string
	for _, s := range syscalls {
		if !slices.Contains(privileged, s.name) {
			names = append(names, s.name)
		}
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	p := profileOf(specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
	for _, persona := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		p.Syscalls = append(p.Syscalls, allow("personality", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: persona}))
	}
	p.Syscalls = append(p.Syscalls,
		specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: number(38)},
		allow("clone", specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 0x7e020000}), // no new namespaces
		allow("socket", specs.LinuxSeccompArg{Op: specs.OpLessThan, Value: unix.AF_ALG}),
		allow("socket", specs.LinuxSeccompArg{Op: specs.OpGreaterThan, Value: unix.AF_VSOCK}),
		specs.LinuxSyscall{Names: []string{"setns"}, Action: specs.ActErrno, ErrnoRet: number(uint(unix.EXDEV))},
		specs.LinuxSyscall{Names: []string{"reboot"}, Action: specs.ActKillProcess},
		specs.LinuxSyscall{Names: []string{"swapoff"}, Action: specs.ActTrap},
		specs.LinuxSyscall{Names: []string{"sethostname"}, Action: specs.ActLog},
	)
	return p
}

var (
	someNames = []string{"read", "ioctl", "socket", "sendto", "recv", "shmat", "ipc", "socketcall", "semtimedop", "waitpid",
		"clone", "mseal", "openat2", "execve", "accept", "no_such_call", "stat64", "vserver"}
	someValues = []uint64{0, 1, 2, 5, 21, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 5, 1 << 63, ^uint64(0)}
)

func pick[T any](rnd *rand.Rand, from []T) T { return from[rnd.IntN(len(from))] }

func randomProfile(rnd *rand.Rand) *specs.LinuxSeccomp {
	all := []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillProcess, specs.ActErrno, specs.ActAllow, specs.ActLog, specs.ActTrace, specs.ActTrap}
	p := &specs.LinuxSeccomp{DefaultAction: pick(rnd, all)}
	for _, a := range []specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchX86_64, specs.ArchAARCH64} {
		if rnd.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	if rnd.IntN(2) == 0 {
		p.DefaultErrnoRet = number(uint(rnd.IntN(4)))
	}
	actions := []specs.LinuxSeccompAction{pick(rnd, all), pick(rnd, all)}
	for range rnd.IntN(12) {
		p.Syscalls = append(p.Syscalls, randomRule(rnd, pick(rnd, actions)))
	}
	return p
}

func randomRule(rnd *rand.Rand, action specs.LinuxSeccompAction) specs.LinuxSyscall {
	call := specs.LinuxSyscall{Action: action, Names: []string{pick(rnd, someNames)}}
	for range rnd.IntN(4) {
		if rnd.IntN(2) == 0 {
			call.Names = append(call.Names, pick(rnd, someNames))
		} else {
			call.Names = append(call.Names, syscalls[rnd.IntN(len(syscalls))].name)
		}
	}
	if rnd.IntN(4) == 0 {
		call.ErrnoRet = number(uint(rnd.IntN(3)))
	}
	for range rnd.IntN(4) {
		call.Args = append(call.Args, specs.LinuxSeccompArg{
			Index: uint(rnd.IntN(6)), Op: pick(rnd, operators), Value: pick(rnd, someValues), ValueTwo: pick(rnd, someValues),
		})
	}
	return call
}

func randomData(rnd *rand.Rand, p *specs.LinuxSeccomp) data {
	d := data{nr: uint32(rnd.IntN(600)), arch: pick(rnd, []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM})}
	if len(p.Syscalls) > 0 && rnd.IntN(3) > 0 {
		name := pick(rnd, pick(rnd, p.Syscalls).Names)
		s, _ := lookup(name)
		d.nr = uint32(pick(rnd, []int32{s.amd64, s.x32, s.i386}))
		if door, ok := doorOf(name); ok && rnd.IntN(3) == 0 {
			d.nr, d.args[0] = door.nr, door.call
		}
	}
	if rnd.IntN(8) == 0 {
		d.nr ^= pick(rnd, []uint32{1 << 30, 1 << 31, 3 << 30, ^uint32(0)})
	}
	for i := range d.args {
		if i > 0 || d.args[0] == 0 {
			d.args[i] = pick(rnd, someValues) + uint64(rnd.IntN(3)) - 1
		}
	}
	return d
}
