package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A reference reads a profile anew for every system call, with no thought of speed, and none of Compile's parts but the
// tables of names.
type reference struct{ s *specs.LinuxSeccomp }

type mode struct {
	arch   uint32
	wide   bool
	number func(name string) (nr int32, ok bool)
}

func tableMode(arch uint32, wide bool, number func(numbers) int32) mode {
	return mode{arch, wide, func(name string) (int32, bool) {
		s, ok := lookup(name)
		return number(s), ok && number(s) != absent
	}}
}

var (
	modeAMD64 = tableMode(unix.AUDIT_ARCH_X86_64, true, func(s numbers) int32 { return s.amd64 })
	modeX32   = tableMode(unix.AUDIT_ARCH_X86_64, false, func(s numbers) int32 { return s.x32 })
	modeI386  = tableMode(unix.AUDIT_ARCH_I386, false, func(s numbers) int32 { return s.i386 })
)

func (r reference) names(a specs.Arch) bool {
	for _, have := range r.s.Architectures {
		if have == a {
			return true
		}
	}
	return false
}

func referenceAction(a specs.LinuxSeccompAction, errno *uint) uint32 {
	data := uint32(1) // EPERM
	if errno != nil {
		data = uint32(*errno)
	}
	switch a {
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return 0
	case "SCMP_ACT_KILL_PROCESS":
		return 0x80000000
	case "SCMP_ACT_TRAP":
		return 0x00030000
	case "SCMP_ACT_ERRNO":
		return 0x00050000 | data
	case "SCMP_ACT_TRACE":
		return 0x7ff00000 | data
	case "SCMP_ACT_LOG":
		return 0x7ffc0000
	case "SCMP_ACT_ALLOW":
		return 0x7fff0000
	}
	panic("no action " + a)
}

// action is what the profile makes of a system call.
func (r reference) action(d *data) uint32 {
	byDefault := referenceAction(r.s.DefaultAction, r.s.DefaultErrnoRet)
	m := modeAMD64
	switch x32 := d.nr&0x40000000 != 0; {
	case d.arch == unix.AUDIT_ARCH_I386 && r.names(specs.ArchX86):
		m = modeI386
	case d.arch != unix.AUDIT_ARCH_X86_64:
		return 0
	case x32 && r.names(specs.ArchX32):
		m = modeX32
	case x32 && d.nr == 0xffffffff:
		return byDefault
	case x32:
		return 0
	}
	if r.tooNew(m, d.nr, byDefault) {
		return 0x00050000 | 38 // ENOSYS
	}
	if m.arch == unix.AUDIT_ARCH_X86_64 && d.nr >= 0x80000000 && d.nr != 0xffffffff && !r.names(specs.ArchX32) {
		return 0
	}
	return r.rules(m, d, byDefault)
}

func (r reference) tooNew(m mode, nr, byDefault uint32) bool {
	if byDefault >= 0x7ff00000 && byDefault < 0x80000000 {
		return false // trace, log, allow
	}
	last := int32(0)
	for _, call := range r.s.Syscalls {
		for _, name := range call.Names {
			if _, isDoor := doorOf(name); isDoor && m.arch == unix.AUDIT_ARCH_I386 {
				continue
			}
			if n, ok := m.number(name); ok {
				last = max(last, n)
			}
		}
	}
	return last > 0 && nr > uint32(last)
}

// rules finds the rule that decides: the first without conditions, else the first in precedence of those that hold.
func (r reference) rules(m mode, d *data, byDefault uint32) uint32 {
	var best []uint64
	decision := byDefault
	for _, call := range r.s.Syscalls {
		action := referenceAction(call.Action, call.ErrnoRet)
		if action == byDefault {
			continue
		}
		for _, name := range call.Names {
			for _, args := range r.spread(call.Args) {
				for _, args := range m.aimed(name, d.nr, args) {
					holds, key := m.evaluate(args, d)
					if len(key) == 0 {
						return action
					}
					if holds && (best == nil || before(key, best)) {
						best, decision = key, action
					}
				}
			}
		}
	}
	return decision
}

// spread splits a rule that speaks twice of an argument.
func (r reference) spread(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			var out [][]specs.LinuxSeccompArg
			for _, a := range args {
				out = append(out, []specs.LinuxSeccompArg{a})
			}
			return out
		}
		seen[a.Index] = true
	}
	return [][]specs.LinuxSeccompArg{args}
}

// aimed returns the arguments of the rules for this number that one for name stands for.
func (m mode) aimed(name string, nr uint32, args []specs.LinuxSeccompArg) (out [][]specs.LinuxSeccompArg) {
	if n, ok := m.number(name); ok && uint32(n) == nr {
		out = append(out, args)
	}
	if d, ok := doorOf(name); ok && m.arch == unix.AUDIT_ARCH_I386 && d.nr == nr {
		behind := []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: d.call}}
		for _, a := range args {
			if a.Index != 0 {
				behind = append(behind, a)
			}
		}
		out = append(out, behind)
	}
	return out
}

// evaluate says whether all conditions hold, and where the rule stands among others: a list of numbers to compare one by
// one, empty for a rule without conditions.
func (m mode) evaluate(args []specs.LinuxSeccompArg, d *data) (holds bool, key []uint64) {
	holds = true
	for index := uint(0); index < 6; index++ {
		for _, a := range args {
			if a.Index != index {
				continue
			}
			x, y, z := d.args[index], a.Value, a.ValueTwo
			if !m.wide {
				x, y, z = uint64(uint32(x)), uint64(uint32(y)), uint64(uint32(z))
			}
			group, value, ok := uint64(0), ^y, false
			switch a.Op {
			case "SCMP_CMP_EQ":
				ok = x == y
			case "SCMP_CMP_NE":
				ok = x != y
			case "SCMP_CMP_MASKED_EQ":
				if y == 0 {
					continue
				}
				ok, value = x&y == z&y, ^(z & y)
			case "SCMP_CMP_LT":
				group, value, ok = 1, y, x < y
			case "SCMP_CMP_LE":
				group, value, ok = 1, y, x <= y
			case "SCMP_CMP_GT":
				group, ok = 2, x > y
			case "SCMP_CMP_GE":
				group, ok = 2, x >= y
			}
			holds = holds && ok
			key = append(key, uint64(5-index), group, value)
		}
	}
	return holds, key
}

func before(a, b []uint64) bool {
	for i := range a {
		if i == len(b) {
			return false
		}
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return len(a) < len(b)
}
