package guest

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// ownRules are what every container may do, whatever its config says, as under runc: make nodes, which opens nothing, and use
// the default devices, its terminals and TUN.
var ownRules = []agent.DeviceRule{
	{Allow: true, Major: -1, Minor: -1, Access: agent.DeviceMknod},
	{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 3, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 5, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 7, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 8, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 9, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 5, Minor: 0, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 5, Minor: 2, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 136, Minor: -1, Access: agent.DeviceAll},
	{Allow: true, Kind: unix.S_IFCHR, Major: 10, Minor: 200, Access: agent.DeviceAll},
}

// restrict has the kernel allow the container's processes no other devices than the rules do, in c and below it.
func (c cgroup) restrict(rules []agent.DeviceRule) error {
	rules, err := withDisks(rules)
	if c == "" || err != nil {
		return err
	}
	program := deviceProgram(append(rules, ownRules...))
	if program == nil {
		return nil
	}
	dir := c.open()
	if dir < 0 {
		return failure(agent.Failed, "open the container's cgroup")
	}
	defer unix.Close(dir)
	return wrap("linux.resources.devices (the guest kernel needs CONFIG_CGROUP_BPF)", attachDeviceProgram(dir, program))
}

// withDisks puts the numbers that this kernel gave virtio block devices in place of their serial numbers.
func withDisks(rules []agent.DeviceRule) ([]agent.DeviceRule, error) {
	out := make([]agent.DeviceRule, 0, len(rules)+len(ownRules))
	for _, r := range rules {
		if r.Disk != "" {
			_, number, err := findDisk(r.Disk)
			if err != nil {
				return nil, wrap("linux.resources.devices", err)
			}
			r.Major, r.Minor = int64(unix.Major(number)), int64(unix.Minor(number))
		}
		out = append(out, r)
	}
	return out, nil
}

// Registers of the program: the access that no rule has decided yet, and what it is about.
const (
	regResult = iota
	regContext
	regKind
	regAccess
	regMajor
	regMinor
)

const insnSize = 8

// deviceProgram compiles rules to a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE, which returns 1 to allow. It goes through them from
// the last one on: each takes from the access that was asked for what it allows, and denies all if it denies a part of what is
// left. It is nil if everything is allowed.
func deviceProgram(rules []agent.DeviceRule) []byte {
	var p bpf
	// struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor, four bytes each.
	p.add(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, regKind, regContext, 0, 0)
	p.add(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, regMajor, regContext, 4, 0)
	p.add(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, regMinor, regContext, 8, 0)
	p.add(unix.BPF_ALU|unix.BPF_MOV|unix.BPF_X, regAccess, regKind, 0, 0)
	p.add(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, regAccess, 0, 0, 16)
	p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, regKind, 0, 0, 0xffff)
	var decided uint8 // about all devices
	onlyAllowed := true
	for i := len(rules) - 1; i >= 0 && decided != agent.DeviceAll; i-- {
		r := rules[i]
		r.Access &^= decided
		if r.Access == 0 || r.Major > maxMajor || r.Minor > maxMinor {
			continue
		}
		if r.Kind == 0 && r.Major < 0 && r.Minor < 0 {
			decided |= r.Access
		}
		onlyAllowed = onlyAllowed && r.Allow
		p.rule(r)
	}
	if onlyAllowed && decided == agent.DeviceAll {
		return nil
	}
	p.end(0)
	return p
}

const (
	maxMajor = 1<<12 - 1 // MINORBITS of <linux/kdev_t.h>
	maxMinor = 1<<20 - 1
)

// bpf is a program of eBPF instructions (Documentation/bpf/standardization/instruction-set.rst).
type bpf []byte

func (p *bpf) add(code, dst, src uint8, offset int16, value int32) {
	b := append(*p, code, dst|src<<4)
	b = binary.LittleEndian.AppendUint16(b, uint16(offset))
	*p = binary.LittleEndian.AppendUint32(b, uint32(value))
}

// end returns a value from the program.
func (p *bpf) end(value int32) {
	p.add(unix.BPF_ALU|unix.BPF_MOV|unix.BPF_K, regResult, 0, 0, value)
	p.add(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0)
}

// rule adds what a rule does, behind what jumps over it if it is not about the device.
func (p *bpf) rule(r agent.DeviceRule) {
	const unequal, equal = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K, unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	var body bpf
	if r.Allow {
		body.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, regAccess, 0, 0, int32(agent.DeviceAll&^r.Access))
		body.add(unequal, regAccess, 0, 2, 0)
		body.end(1)
	} else {
		body.add(unix.BPF_ALU|unix.BPF_MOV|unix.BPF_X, regResult, regAccess, 0, 0)
		body.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, regResult, 0, 0, int32(r.Access))
		body.add(equal, regResult, 0, 2, 0)
		body.end(0)
	}
	var tests []int32 // register and value by turns
	switch r.Kind {
	case unix.S_IFCHR:
		tests = append(tests, regKind, unix.BPF_DEVCG_DEV_CHAR)
	case unix.S_IFBLK:
		tests = append(tests, regKind, unix.BPF_DEVCG_DEV_BLOCK)
	}
	if r.Major >= 0 {
		tests = append(tests, regMajor, int32(r.Major))
	}
	if r.Minor >= 0 {
		tests = append(tests, regMinor, int32(r.Minor))
	}
	for i := 0; i < len(tests); i += 2 {
		left := (len(tests)-i)/2 - 1 + len(body)/insnSize
		p.add(unequal, uint8(tests[i]), 0, int16(left), tests[i+1])
	}
	*p = append(*p, body...)
}
