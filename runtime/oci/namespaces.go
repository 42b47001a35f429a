package oci

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/namespace"
)

// engineOptions are how people ask engines for the host's namespaces.
var engineOptions = map[specs.LinuxNamespaceType]string{
	specs.MountNamespace:   "",
	specs.PIDNamespace:     ", or leave --pid=host out",
	specs.NetworkNamespace: ", or use --network none in place of --network host",
	specs.IPCNamespace:     ", or leave --ipc=host out",
}

// checkNamespaces refuses namespaces that a VM cannot be in. Those with a path are opened to see what they are; they are
// opened again, and checked again, when they are joined.
func checkNamespaces(spec *specs.Spec) error {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range spec.Linux.Namespaces {
		if have[ns.Type] {
			return fmt.Errorf("malformed spec file: duplicated ns %q", ns.Type)
		}
		have[ns.Type] = true
		if err := checkNamespace(ns); err != nil {
			return fmt.Errorf("linux.namespaces: %w", err)
		}
	}
	for _, need := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace} {
		if !have[need] {
			return fmt.Errorf("linux.namespaces: no %s namespace: a micro-VM cannot share the host's; add {\"type\": %q}%s", need, need, engineOptions[need])
		}
	}
	if !ownUTS(spec.Linux.Namespaces) {
		switch {
		case spec.Hostname != "":
			return errors.New("unable to set hostname without a private UTS namespace")
		case spec.Domainname != "":
			return errors.New("unable to set domainname without a private UTS namespace")
		}
	}
	return checkTimeOffsets(spec.Linux, have[specs.TimeNamespace])
}

func checkNamespace(ns specs.LinuxNamespace) error {
	switch ns.Type {
	case specs.MountNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		if ns.Path != "" {
			return fmt.Errorf("joining a %s namespace is not possible: the guest has its own", ns.Type)
		}
		return nil
	case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace:
	default:
		return fmt.Errorf("a %s namespace is not supported yet", ns.Type)
	}
	if ns.Path == "" {
		return nil
	}
	if strings.ContainsAny(ns.Path, "\x00") {
		return fmt.Errorf("%q holds a NUL byte", ns.Path)
	}
	n, err := namespace.Open(ns.Type, ns.Path)
	if err != nil {
		return err
	}
	defer n.Close()
	if ns.Type != specs.UTSNamespace && n.Of(0) {
		return fmt.Errorf("the %s namespace %s is the host's: a micro-VM cannot share it; leave the path out%s", ns.Type, ns.Path, engineOptions[ns.Type])
	}
	return nil
}

// ownUTS says whether the config gives the container a UTS namespace that is not the host's.
func ownUTS(list []specs.LinuxNamespace) bool {
	i := slices.IndexFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UTSNamespace })
	if i < 0 || list[i].Path == "" {
		return i >= 0
	}
	n, err := namespace.Open(specs.UTSNamespace, list[i].Path)
	if err != nil {
		return false
	}
	defer n.Close()
	return !n.Of(0)
}

// checkTimeOffsets looks at what runc and the kernel would.
func checkTimeOffsets(l *specs.Linux, haveNamespace bool) error {
	for clock, offset := range l.TimeOffsets {
		switch {
		case !haveNamespace:
			return errors.New("time namespace offsets specified, but time namespace isn't enabled in the config")
		case clock != "monotonic" && clock != "boottime":
			return fmt.Errorf("linux.timeOffsets: %q is no clock of a time namespace: use monotonic or boottime", clock)
		case offset.Nanosecs >= 1e9:
			return fmt.Errorf("linux.timeOffsets: %s: %d nanoseconds are a second or more", clock, offset.Nanosecs)
		}
	}
	return nil
}

// TimeOffsets are those of the container's time namespace, for each of its processes.
func TimeOffsets(l *specs.Linux) (out []agent.TimeOffset) {
	for _, clock := range []string{"monotonic", "boottime"} {
		if o := l.TimeOffsets[clock]; o.Secs != 0 || o.Nanosecs != 0 {
			out = append(out, agent.TimeOffset{Clock: clock, Seconds: o.Secs, Nanoseconds: o.Nanosecs})
		}
	}
	return out
}
