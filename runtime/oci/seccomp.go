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

// keepEmptyFlags keeps an empty list of flags from getting lost on the way to the monitor, as empty lists do in JSON
// that Go writes: without a list a default holds. The flag put in its place changes nothing.
func keepEmptyFlags(l *specs.Linux) {
	if l != nil && l.Seccomp != nil && l.Seccomp.Flags != nil && len(l.Seccomp.Flags) == 0 {
		l.Seccomp.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}
	}
}

func seccompFeatures() *features.Seccomp {
	yes := true
	supported, known := seccomp.Flags()
	return &features.Seccomp{
		Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Architectures(),
		KnownFlags: known, SupportedFlags: supported,
	}
}
