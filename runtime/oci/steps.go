package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/sandbox"
)

// Steps returns what stands at each mount point in the engines' view of the container, one step a mount of the config.
func Steps(mounts []specs.Mount) ([]sandbox.Step, error) {
	steps := make([]sandbox.Step, len(mounts))
	for i, spec := range mounts {
		m, err := ParseMount(spec)
		if err != nil {
			return nil, err
		}
		steps[i] = sandbox.Step{Kind: sandbox.Cover, Target: m.Target}
		switch {
		case m.Bind:
			readOnly := m.Flags&unix.MS_RDONLY != 0 || m.RecursiveAttr&unix.MOUNT_ATTR_RDONLY != 0
			steps[i] = sandbox.Step{Kind: sandbox.Bind, Source: m.Source, Target: m.Target, Recursive: m.Recursive, ReadOnly: readOnly}
		case m.Type == "proc":
			steps[i].Kind = sandbox.Proc
		}
	}
	return steps, nil
}
