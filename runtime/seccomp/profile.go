package seccomp

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A profile is a linux.seccomp whose names were looked up and whose mistakes were found.
type profile struct {
	action    uint32 // for what no rule matches
	i386, x32 bool   // architectures beside x86-64
	flags     uint32
	names     []string // of every system call that is spoken of, also where the rule makes no difference
	rules     []rule
}

// A rule gives one system call an action, under conditions that must all hold.
type rule struct {
	name   string
	action uint32
	conds  []condition // by ascending argument, each at most once
}

// A condition compares an argument. Only a masked comparison has a mask that is not all ones.
type condition struct {
	arg         uint
	op          specs.LinuxSeccompOperator
	value, mask uint64
}

// parse checks the whole of a linux.seccomp. Its errors begin with the field's name.
func parse(s *specs.LinuxSeccomp) (*profile, error) {
	if s.ListenerPath != "" || s.ListenerMetadata != "" {
		return nil, errors.New("linux.seccomp.listenerPath and listenerMetadata are not supported: a listener on the host cannot serve a guest's system calls")
	}
	action, err := parseAction("linux.seccomp.defaultAction", s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	p := &profile{action: action}
	if p.flags, err = parseFlags(s.Flags); err != nil {
		return nil, err
	}
	for _, a := range s.Architectures {
		if !slices.Contains(architectures, a) {
			return nil, fmt.Errorf("linux.seccomp.architectures: unknown architecture %q", a)
		}
		p.i386 = p.i386 || a == specs.ArchX86
		p.x32 = p.x32 || a == specs.ArchX32
	}
	for i, call := range s.Syscalls {
		if err := p.add(fmt.Sprintf("linux.seccomp.syscalls[%d]", i), call); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// parseAction returns the filter's return value. As under runc, an errno beside an action that has none is overlooked.
func parseAction(field string, a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	value, ok := actions[a]
	switch {
	case a == specs.ActNotify:
		return 0, fmt.Errorf("%s: SCMP_ACT_NOTIFY is not supported: a listener on the host cannot serve a guest's system calls", field)
	case !ok:
		return 0, fmt.Errorf("%s: unknown action %q", field, a)
	case a != specs.ActErrno && a != specs.ActTrace:
		return value, nil
	case errno == nil:
		return value | uint32(unix.EPERM), nil
	case *errno > unix.SECCOMP_RET_DATA:
		return 0, fmt.Errorf("%s: errno %d does not fit in 16 bits", field, *errno)
	}
	return value | uint32(*errno), nil
}

// parseFlags returns the flags of seccomp(2). Where the config has no list of flags, not even an empty one, runc's
// default holds.
func parseFlags(names []specs.LinuxSeccompFlag) (uint32, error) {
	if names == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var out uint32
	for _, name := range names {
		f, ok := flags[name]
		switch {
		case name == specs.LinuxSeccompFlagWaitKillableRecv:
			return 0, fmt.Errorf("linux.seccomp.flags: %s is only for SCMP_ACT_NOTIFY, which is not supported", name)
		case !ok:
			return 0, fmt.Errorf("linux.seccomp.flags: unknown flag %q", name)
		}
		out |= f
	}
	return out, nil
}

func (p *profile) add(field string, call specs.LinuxSyscall) error {
	action, err := parseAction(field+".action", call.Action, call.ErrnoRet)
	if err != nil {
		return err
	}
	conds, err := parseArgs(field+".args", call.Args)
	if err != nil {
		return err
	}
	for i, name := range call.Names {
		if name == "" {
			return fmt.Errorf("%s.names[%d] is empty", field, i)
		}
		p.names = append(p.names, name)
		if action == p.action {
			continue // libseccomp takes no rule that says what holds anyway, and runc skips it
		}
		for _, c := range alternatives(conds) {
			p.rules = append(p.rules, rule{name: name, action: action, conds: c})
		}
	}
	return nil
}

func parseArgs(field string, args []specs.LinuxSeccompArg) ([]condition, error) {
	conds := make([]condition, 0, len(args))
	for i, a := range args {
		switch {
		case a.Index > 5:
			return nil, fmt.Errorf("%s[%d].index is %d: a system call has six arguments, 0 to 5", field, i, a.Index)
		case !slices.Contains(operators, a.Op):
			return nil, fmt.Errorf("%s[%d].op: unknown operator %q", field, i, a.Op)
		}
		c := condition{arg: a.Index, op: a.Op, value: a.Value, mask: ^uint64(0)}
		if a.Op == specs.OpMaskedEqual {
			c.mask, c.value = a.Value, a.ValueTwo&a.Value
		}
		conds = append(conds, c)
	}
	return conds, nil
}

// alternatives returns the lists of conditions of which one must hold: a single one of all that were given, or, where
// an argument occurs twice, one of each, as runc has always read such rules.
func alternatives(conds []condition) [][]condition {
	all := slices.Clone(conds)
	slices.SortStableFunc(all, func(a, b condition) int { return int(a.arg) - int(b.arg) })
	for i := 1; i < len(all); i++ {
		if all[i].arg == all[i-1].arg {
			return slices.Collect(slices.Chunk(conds, 1))
		}
	}
	return [][]condition{all}
}
