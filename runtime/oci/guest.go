package oci

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/seccomp"
)

// ExportName is the name under which the n-th thing that a container may see is exported to its guest: 0 is the root
// file system, n the source of mount n-1.
func ExportName(id string, n int) string { return fmt.Sprintf("%s/%d", id, n) }

// Guest translates a checked config to what the agent in the guest carries out.
func Guest(id string, spec *specs.Spec) (*agent.CreateContainer, error) {
	process, err := GuestProcess(spec.Process, spec.Linux)
	if err != nil {
		return nil, err
	}
	c := &agent.CreateContainer{
		ID:            id,
		Rootfs:        agent.Rootfs{Source: "/" + ExportName(id, 0), Readonly: spec.Root.Readonly, Propagation: uint64(propagations[spec.Linux.RootfsPropagation])},
		Hostname:      spec.Hostname,
		Domainname:    spec.Domainname,
		MaskedPaths:   spec.Linux.MaskedPaths,
		ReadonlyPaths: spec.Linux.ReadonlyPaths,
		Process:       process,
		Devices:       guestDeviceList(spec.Linux),
		DeviceRules:   guestDeviceRules(spec.Linux),
	}
	c.Process.TimeOffsets = TimeOffsets(spec.Linux)
	for i, m := range spec.Mounts {
		mount, err := guestMount(id, i, m)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		c.Mounts = append(c.Mounts, mount)
	}
	for name, value := range spec.Linux.Sysctl {
		c.Sysctls = append(c.Sysctls, agent.Sysctl{Name: name, Value: value})
	}
	sort.Slice(c.Sysctls, func(i, j int) bool { return c.Sysctls[i].Name < c.Sysctls[j].Name })
	c.Resources = GuestResources(spec.Linux.Resources)
	return c, nil
}

func guestMount(id string, i int, spec specs.Mount) (agent.Mount, error) {
	m, err := ParseMount(spec)
	if err != nil {
		return agent.Mount{}, err
	}
	source := m.Source
	if m.Bind {
		source = "/" + ExportName(id, i+1)
	}
	if m.Type == "tmpfs" && !m.Bind {
		m.Data = withSize(m.Data)
	}
	return agent.Mount{
		Bind: m.Bind, Recursive: m.Recursive, CopyUp: m.CopyUp,
		Source: source, Target: m.Target, Type: m.Type,
		Flags: uint64(m.Flags), Clear: uint64(m.Clear),
		RecAttrSet: m.RecursiveAttr, RecAttrClear: m.RecursiveClear,
		Propagation: uint64(m.Propagation), Data: m.Data,
	}, nil
}

// withSize gives a tmpfs without a size the one that it has under runc: half of the host's memory, not of the RAM with which its guest
// starts. What it may really hold is the container's limit to say.
func withSize(data string) string {
	for _, o := range strings.Split(data, ",") {
		if name, _, _ := strings.Cut(o, "="); name == "size" || name == "nr_blocks" {
			return data
		}
	}
	size := fmt.Sprintf("size=%dk", hostMemory()/2>>10)
	if data == "" {
		return size
	}
	return data + "," + size
}

// value is 0, "leave it", for what the config does not say.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// defaultUmask is what a process gets whose config has none, as under runc.
const defaultUmask = 0o022

// GuestProcess translates a checked process, and what of its container holds for each of its processes: seccomp profile
// and personality. The stream ids are the caller's to fill.
func GuestProcess(p *specs.Process, l *specs.Linux) (agent.Process, error) {
	filter, err := seccomp.Compile(l.Seccomp)
	if err != nil {
		return agent.Process{}, err
	}
	out := agent.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids, Umask: defaultUmask,
		NoNewPrivileges: p.NoNewPrivileges,
		Terminal:        p.Terminal,
		Seccomp:         filter,
		Scheduler:       guestScheduler(p.Scheduler),
		IOPriority:      guestIOPriority(p.IOPriority),
		Personality:     guestPersonality(l),
	}
	if p.User.Umask != nil {
		out.Umask = *p.User.Umask & 0o777
	}
	if p.OOMScoreAdj != nil {
		out.SetOOMScoreAdj, out.OOMScoreAdj = true, int32(*p.OOMScoreAdj)
	}
	if p.ConsoleSize != nil {
		out.Rows, out.Cols = uint16(min(p.ConsoleSize.Height, 1<<16-1)), uint16(min(p.ConsoleSize.Width, 1<<16-1))
	}
	for _, r := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, agent.Rlimit{Resource: int32(rlimits[r.Type]), Soft: r.Soft, Hard: r.Hard})
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = agent.Capabilities{
			Bounding: capabilitySet(c.Bounding), Effective: capabilitySet(c.Effective), Inheritable: capabilitySet(c.Inheritable),
			Permitted: capabilitySet(c.Permitted),
		}
		// The kernel raises no others (capabilities(7)), and runc passes over them: buildah writes ambient sets alone.
		out.Capabilities.Ambient = capabilitySet(c.Ambient) & out.Capabilities.Inheritable & out.Capabilities.Permitted
	}
	return out, nil
}

// capabilityNames are the capabilities by number (capabilities(7)), without "CAP_".
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
	AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// capabilitySet turns names into bits; UnknownCapabilities tells which are left out.
func capabilitySet(names []string) uint64 {
	var set uint64
	for _, name := range names {
		if n := capabilityNumber(name); n >= 0 {
			set |= 1 << n
		}
	}
	return set
}

// GuestExec translates the checked process of an exec in a container.
func GuestExec(p *specs.Process, container *specs.Spec) (agent.Process, error) {
	out, err := GuestProcess(p, container.Linux)
	if err != nil {
		return out, err
	}
	cpus := p.ExecCPUAffinity
	if cpus == nil {
		cpus = container.Process.ExecCPUAffinity
	}
	out.CPUs, err = execAffinity(cpus)
	return out, err
}

func capabilityNumber(name string) int {
	return slices.IndexFunc(capabilityNames, func(known string) bool {
		return strings.EqualFold(strings.TrimPrefix(name, "CAP_"), known)
	})
}

// UnknownCapabilities returns the names that no capability has. They have no effect, as under runc: engines ask for
// those of later kernels too.
func UnknownCapabilities(p *specs.Process) []string {
	if p.Capabilities == nil {
		return nil
	}
	c := p.Capabilities
	var out []string
	for _, set := range [][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
		for _, name := range set {
			if capabilityNumber(name) < 0 && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
