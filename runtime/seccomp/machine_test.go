package seccomp

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// data is struct seccomp_data, linux/seccomp.h.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

func (d *data) word(offset uint32) (uint32, error) {
	switch {
	case offset == offsetNR:
		return d.nr, nil
	case offset == offsetArch:
		return d.arch, nil
	case offset >= offsetArgs && offset < offsetArgs+6*8 && offset%4 == 0:
		return uint32(d.args[(offset-offsetArgs)/8] >> (offset % 8 * 8)), nil
	}
	return 0, fmt.Errorf("load of offset %d", offset)
}

// execute runs a filter as the kernel does. It knows the instructions that Compile writes, and no others.
func execute(code []agent.Instruction, d *data) (action uint32, steps int, err error) {
	var a uint32
	for pc := 0; pc < len(code); pc++ {
		steps++
		in := code[pc]
		var hit bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if a, err = d.word(in.K); err != nil {
				return 0, steps, err
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps, nil
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			hit = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			hit = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			hit = a >= in.K
		default:
			return 0, steps, fmt.Errorf("instruction %d is %#x", pc, in.Code)
		}
		if hit {
			pc += int(in.JT)
		} else {
			pc += int(in.JF)
		}
	}
	return 0, steps, fmt.Errorf("the filter ends without a return")
}
