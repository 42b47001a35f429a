package seccomp

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// A program is written from its end to its beginning: classic BPF jumps only forward, so that the target of every jump
// is known when the jump is written.
type program struct {
	code    []agent.Instruction // the last one first
	returns map[uint32]label
}

// A label is the place of an instruction, counted from the program's end.
type label int

// near bounds what a conditional jump skips, which has 8 bits, less the instruction that may have to be written for its
// other branch. Farther targets are reached in two steps.
const near = math.MaxUint8 - 1

func (p *program) emit(in agent.Instruction) label {
	p.code = append(p.code, in)
	return label(len(p.code) - 1)
}

// within returns a place fewer than distance instructions away that does what target does.
func (p *program) within(target label, distance int) label {
	skip := func(l label) int { return len(p.code) - int(l) - 1 }
	in := p.code[target]
	switch isReturn := in.Code == unix.BPF_RET|unix.BPF_K; {
	case skip(target) < distance:
		return target
	case isReturn && skip(p.returns[in.K]) < distance:
		return p.returns[in.K]
	case isReturn:
		delete(p.returns, in.K)
		return p.ret(in.K)
	}
	return p.emit(agent.Instruction{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(skip(target))})
}

// ret ends the filter with an action.
func (p *program) ret(action uint32) label {
	l, ok := p.returns[action]
	if !ok {
		l = p.emit(agent.Instruction{Code: unix.BPF_RET | unix.BPF_K, K: action})
		p.returns[action] = l
	}
	return l
}

// then writes an instruction that does not jump before next.
func (p *program) then(code uint16, k uint32, next label) label {
	p.within(next, 1)
	return p.emit(agent.Instruction{Code: code, K: k})
}

// load reads a 32-bit word of struct seccomp_data (seccomp(2)).
func (p *program) load(offset uint32, next label) label {
	return p.then(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, next)
}

// branch goes on with yes where a comparison of the word at hand with k holds, and else with no.
func (p *program) branch(op uint16, k uint32, yes, no label) label {
	yes = p.within(yes, near)
	no = p.within(no, near)
	here := len(p.code)
	return p.emit(agent.Instruction{
		Code: unix.BPF_JMP | unix.BPF_K | op,
		JT:   uint8(here - int(yes) - 1), JF: uint8(here - int(no) - 1), K: k,
	})
}

// instructions returns the program in the order of its execution.
func (p *program) instructions() []agent.Instruction {
	slices.Reverse(p.code)
	return p.code
}
