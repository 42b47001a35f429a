// Package seccomp compiles linux.seccomp of a config.json (runtime-spec, config-linux.md, Seccomp) to the classic BPF
// that seccomp(2) takes. It means by a profile what libseccomp and runc mean by it, differences that only contradictory
// profiles show aside. The host compiles, the guest's agent installs.
package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// The words of struct seccomp_data, linux/seccomp.h.
const (
	offsetNR   = 0
	offsetArch = 4
	offsetArgs = 16 // six of 64 bits each, low word first
)

// Compile translates a profile. A nil one, and one that says nothing at all, is no filter.
func Compile(s *specs.LinuxSeccomp) (agent.Seccomp, error) {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return agent.Seccomp{}, nil
	}
	profile, err := parse(s)
	if err != nil {
		return agent.Seccomp{}, err
	}
	abis, err := profile.abis()
	if err != nil {
		return agent.Seccomp{}, err
	}
	filter := assemble(abis)
	if len(filter) > unix.BPF_MAXINSNS {
		return agent.Seccomp{}, tooLong(len(filter))
	}
	return agent.Seccomp{Flags: profile.flags, Filter: filter}, nil
}

func tooLong(n int) error {
	return fmt.Errorf("linux.seccomp: the filter has at least %d instructions, the kernel takes %d: give it fewer rules with arguments", n, unix.BPF_MAXINSNS)
}

// assemble writes the filter: the architecture first, then the number, then the arguments. What comes from an
// architecture that the profile does not name is killed, as libseccomp has it.
func assemble(abis []*abi) []agent.Instruction {
	p := &program{returns: map[uint32]label{}}
	sections := make([]label, len(abis))
	for i, a := range abis {
		outcomes := map[outcome]label{}
		sections[i] = p.load(offsetNR, p.search(a.steps(), a.action, outcomes))
	}
	next := p.ret(unix.SECCOMP_RET_KILL_THREAD)
	for i, a := range abis {
		next = p.branch(unix.BPF_JEQ, a.audit, sections[i], next)
	}
	p.load(offsetArch, next)
	return p.instructions()
}

// search writes a binary search for the step that a system call's number belongs to.
func (p *program) search(steps []step, otherwise uint32, outcomes map[outcome]label) label {
	if len(steps) == 1 {
		return p.outcome(steps[0].outcome, otherwise, outcomes)
	}
	middle := len(steps) / 2
	below := p.search(steps[:middle], otherwise, outcomes)
	above := p.search(steps[middle:], otherwise, outcomes)
	return p.branch(unix.BPF_JGE, steps[middle].from, above, below)
}

func (p *program) outcome(o outcome, otherwise uint32, outcomes map[outcome]label) label {
	if o.choice == nil {
		return p.ret(o.action)
	}
	l, ok := outcomes[o]
	if ok {
		return l
	}
	l = p.ret(otherwise)
	for i := len(o.choice.rules) - 1; i >= 0; i-- {
		r := o.choice.rules[i]
		l = p.rule(r, o.choice.wide, p.ret(r.action), l)
	}
	outcomes[o] = l
	return l
}

// rule goes on with yes if all conditions hold.
func (p *program) rule(r rule, wide bool, yes, no label) label {
	for i := len(r.conds) - 1; i >= 0; i-- {
		yes = p.condition(r.conds[i], wide, yes, no)
	}
	return yes
}

// condition turns the operators into those that BPF has: equal, greater, greater or equal.
func (p *program) condition(c condition, wide bool, yes, no label) label {
	switch c.op {
	case specs.OpNotEqual:
		return p.equal(c, wide, no, yes)
	case specs.OpGreaterThan:
		return p.greater(unix.BPF_JGT, c, wide, yes, no)
	case specs.OpGreaterEqual:
		return p.greater(unix.BPF_JGE, c, wide, yes, no)
	case specs.OpLessEqual:
		return p.greater(unix.BPF_JGT, c, wide, no, yes)
	case specs.OpLessThan:
		return p.greater(unix.BPF_JGE, c, wide, no, yes)
	default:
		return p.equal(c, wide, yes, no)
	}
}

// equal compares both words of an argument, under the condition's mask.
func (p *program) equal(c condition, wide bool, yes, no label) label {
	yes = p.equalWord(offsetLow(c.arg), uint32(c.value), uint32(c.mask), yes, no)
	if !wide {
		return yes
	}
	return p.equalWord(offsetHigh(c.arg), uint32(c.value>>32), uint32(c.mask>>32), yes, no)
}

func (p *program) equalWord(offset, value, mask uint32, yes, no label) label {
	if mask == 0 {
		return yes
	}
	l := p.branch(unix.BPF_JEQ, value, yes, no)
	if mask != ^uint32(0) {
		l = p.then(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, l)
	}
	return p.load(offset, l)
}

// greater compares an argument: the low word counts where the high words are equal.
func (p *program) greater(op uint16, c condition, wide bool, yes, no label) label {
	l := p.load(offsetLow(c.arg), p.branch(op, uint32(c.value), yes, no))
	if !wide {
		return l
	}
	high := uint32(c.value >> 32)
	l = p.branch(unix.BPF_JEQ, high, l, no)
	l = p.branch(unix.BPF_JGT, high, yes, l)
	return p.load(offsetHigh(c.arg), l)
}

func offsetLow(arg uint) uint32  { return offsetArgs + 8*uint32(arg) }
func offsetHigh(arg uint) uint32 { return offsetLow(arg) + 4 }
