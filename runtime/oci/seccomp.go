package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/govmm/govmm/runtime/seccomp"
)

// checkSeccomp finds out before anything starts whether a profile can be compiled.
func checkSeccomp(l *specs.Linux) error {
	if l == nil {
		return nil
	}
	_, err := seccomp.Compile(l.Seccomp)
	return err
}

func seccompFeatures() *features.Seccomp {
	yes := true
	supported, known := seccomp.Flags()
	return &features.Seccomp{
		Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Architectures(),
		KnownFlags: known, SupportedFlags: supported,
	}
}
