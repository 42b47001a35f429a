package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An outcome is what becomes of a system call: an action, or a choice that its arguments make.
type outcome struct {
	action uint32
	choice *choice // nil: action
}

// A choice tries rules in turn.
type choice struct {
	wide  bool // arguments have 64 bits
	rules []rule
}

// An abi is what the kernel calls an architecture (AUDIT_ARCH_*): a meaning for each system call number.
type abi struct {
	audit    uint32
	action   uint32 // for what no rule matches
	outcomes map[uint32]outcome
	// The highest numbers that the profile speaks of; what is above fails with ENOSYS. 0 is no limit.
	last, lastX32 uint32
	refuseX32     bool // x86-64 only: the profile does not name x32
}

// abis returns what an x86-64 kernel runs, as far as the profile lets it.
func (p *profile) abis() ([]*abi, error) {
	amd64 := &abi{audit: unix.AUDIT_ARCH_X86_64, action: p.action, outcomes: map[uint32]outcome{}, refuseX32: !p.x32}
	if err := amd64.add(p, true, func(s numbers) int32 { return s.amd64 }); err != nil {
		return nil, err
	}
	amd64.last = p.last(func(s numbers) int32 { return s.amd64 })
	if p.x32 {
		if err := amd64.add(p, false, func(s numbers) int32 { return s.x32 }); err != nil {
			return nil, err
		}
		amd64.lastX32 = p.last(func(s numbers) int32 { return s.x32 })
	}
	if !p.i386 {
		return []*abi{amd64}, nil
	}
	i386 := &abi{audit: unix.AUDIT_ARCH_I386, action: p.action, outcomes: map[uint32]outcome{}}
	if err := i386.add(p, false, func(s numbers) int32 { return s.i386 }); err != nil {
		return nil, err
	}
	i386.last = p.last(directI386)
	return []*abi{amd64, i386}, nil
}

// directI386 is the number that libseccomp returns for a name: none for a call that may come through a door.
func directI386(s numbers) int32 {
	if _, ok := doorOf(s.name); ok {
		return absent
	}
	return s.i386
}

// last returns the highest number that the profile speaks of. What is above is newer than the profile, and fails with
// ENOSYS, as runc has it (libcontainer/seccomp/patchbpf), so that programs fall back on older calls; not so where the
// default action lets calls pass.
func (p *profile) last(number func(numbers) int32) uint32 {
	if slices.Contains([]uint32{unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE}, p.action&unix.SECCOMP_RET_ACTION_FULL) {
		return 0
	}
	var last uint32
	for _, name := range p.names {
		if s, ok := lookup(name); ok && number(s) > 0 {
			last = max(last, uint32(number(s)))
		}
	}
	return last
}

// add gives each number that the profile's rules speak of its outcome. Names that the architecture does not have are
// passed over.
func (a *abi) add(p *profile, wide bool, number func(numbers) int32) error {
	choices := map[uint32]*choice{}
	i386 := a.audit == unix.AUDIT_ARCH_I386
	for _, r := range p.rules {
		if d, ok := doorOf(r.name); i386 && ok {
			if err := a.addRule(choices, d.nr, wide, r.behind(d)); err != nil {
				return err
			}
		}
		if s, ok := lookup(r.name); ok && number(s) >= 0 {
			if err := a.addRule(choices, uint32(number(s)), wide, r); err != nil {
				return err
			}
		}
	}
	for _, c := range choices {
		slices.SortStableFunc(c.rules, func(a, b rule) int { return slices.CompareFunc(a.conds, b.conds, precedence) })
	}
	return nil
}

// behind returns the rule as it holds for a call through a door. The door's number takes the first argument's place;
// the others cannot be looked at, but libseccomp keeps what the rule says of them.
func (r rule) behind(d door) rule {
	conds := slices.DeleteFunc(slices.Clone(r.conds), func(c condition) bool { return c.arg == 0 })
	first := condition{arg: 0, op: specs.OpEqualTo, value: d.call, mask: ^uint64(0)}
	return rule{name: r.name, action: r.action, conds: append([]condition{first}, conds...)}
}

// addRule merges a rule with those before it, as libseccomp does: the first that has no conditions replaces those that
// have, and a rule that adds conditions to an earlier one's never gets to speak. Those that contradict each other are
// refused.
func (a *abi) addRule(choices map[uint32]*choice, nr uint32, wide bool, r rule) error {
	if !wide {
		r.conds = narrow(r.conds)
	}
	r.conds = slices.DeleteFunc(slices.Clone(r.conds), func(c condition) bool { return c.mask == 0 })
	c := choices[nr]
	switch _, settled := a.outcomes[nr]; {
	case settled && c == nil:
		return nil
	case len(r.conds) == 0:
		a.outcomes[nr] = outcome{action: r.action}
		delete(choices, nr)
		return nil
	case c == nil:
		c = &choice{wide: wide}
		choices[nr], a.outcomes[nr] = c, outcome{choice: c}
	}
	for _, old := range c.rules {
		switch {
		case r.action != old.action && begins(old.conds, r.conds):
			return fmt.Errorf("linux.seccomp.syscalls: two rules for %s give different actions under the same conditions", r.name)
		case begins(r.conds, old.conds):
			return nil
		}
	}
	c.rules = append(c.rules, r)
	if len(c.rules) > unix.BPF_MAXINSNS {
		return tooLong(len(c.rules))
	}
	return nil
}

// narrow drops what an argument of 32 bits cannot have.
func narrow(conds []condition) []condition {
	out := slices.Clone(conds)
	for i := range out {
		out[i].value &= 1<<32 - 1
		out[i].mask &= 1<<32 - 1
	}
	return out
}

func begins(conds, prefix []condition) bool {
	return len(conds) >= len(prefix) && slices.Equal(conds[:len(prefix)], prefix)
}

// precedence orders the conditions of rules for one system call in the order in which libseccomp tries them: later
// arguments first, equality before bounds, narrow bounds before wide ones. Where two rules with different actions match,
// the first decides.
func precedence(a, b condition) int {
	if c := cmp.Or(cmp.Compare(b.arg, a.arg), cmp.Compare(rank(a.op), rank(b.op))); c != 0 {
		return c
	}
	if rank(a.op) == rank(specs.OpLessThan) {
		return cmp.Compare(a.value, b.value)
	}
	return cmp.Compare(b.value, a.value)
}

func rank(op specs.LinuxSeccompOperator) int {
	switch op {
	case specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual:
		return 0
	case specs.OpLessThan, specs.OpLessEqual:
		return 1
	default:
		return 2
	}
}

// outcome says what becomes of a system call by its number.
func (a *abi) outcome(nr uint32) outcome {
	x32 := nr&x32Bit != 0 && a.audit == unix.AUDIT_ARCH_X86_64
	last := a.last
	if x32 {
		last = a.lastX32
	}
	if last != 0 && nr > last {
		return outcome{action: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	}
	// A tracer skips a system call by making its number -1 (seccomp(2)), which must not look like one of x32.
	if a.refuseX32 && nr >= x32Bit && nr != ^uint32(0) {
		return outcome{action: unix.SECCOMP_RET_KILL_THREAD}
	}
	if o, ok := a.outcomes[nr]; ok {
		return o
	}
	return outcome{action: a.action}
}

// A step is the outcome of all numbers from one on to the next step.
type step struct {
	from    uint32
	outcome outcome
}

// steps returns the outcomes of all numbers in ascending order, none of them twice in a row.
func (a *abi) steps() []step {
	edges := []uint32{0, a.last + 1, a.lastX32 + 1, x32Bit, 2 * x32Bit, 3 * x32Bit, ^uint32(0)}
	for nr := range a.outcomes {
		edges = append(edges, nr, nr+1)
	}
	slices.Sort(edges)
	var out []step
	for _, from := range slices.Compact(edges) {
		if o := a.outcome(from); len(out) == 0 || out[len(out)-1].outcome != o {
			out = append(out, step{from, o})
		}
	}
	return out
}
