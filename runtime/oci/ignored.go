package oci

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Ignored tells what a checked config asks for and does not get because it has no meaning in a guest: for the debug log.
func Ignored(spec *specs.Spec) []string {
	var out []string
	for _, f := range []struct{ name, value string }{
		{"process.apparmorProfile", spec.Process.ApparmorProfile},
		{"process.selinuxLabel", spec.Process.SelinuxLabel},
		{"linux.mountLabel", spec.Linux.MountLabel},
	} {
		if f.value != "" {
			out = append(out, f.name+" "+f.value)
		}
	}
	if p := spec.Linux.MemoryPolicy; p != nil {
		out = append(out, fmt.Sprintf("linux.memoryPolicy %s: the guest has one node", p.Mode))
	}
	if skipped := skippedDevices(spec.Linux); len(skipped) > 0 {
		out = append(out, "linux.devices that the guest has no driver for: "+strings.Join(skipped, " "))
	}
	return out
}
