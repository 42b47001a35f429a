package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/virtio/ratelimit"
)

// checkResources refuses values that no kernel takes, before anything is started.
func checkResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil {
		for _, v := range []struct {
			name  string
			value *int64
		}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
			if value(v.value) < -1 {
				return fmt.Errorf("linux.resources.memory.%s: %d is not a size; -1 is no limit", v.name, *v.value)
			}
		}
		if swap, limit := value(m.Swap), value(m.Limit); swap > 0 && limit > swap {
			return fmt.Errorf("linux.resources.memory.swap: memory+swap limit %d should be >= memory limit %d", swap, limit)
		}
	}
	if r.Pids != nil && value(r.Pids.Limit) < -1 {
		return fmt.Errorf("linux.resources.pids.limit: %d is not a number of processes; -1 is no limit", *r.Pids.Limit)
	}
	if err := checkUnified(r.Unified); err != nil {
		return err
	}
	return checkCPU(r.CPU)
}

func checkCPU(c *specs.LinuxCPU) error {
	if c == nil {
		return nil
	}
	if value(c.Quota) < -1 {
		return fmt.Errorf("linux.resources.cpu.quota: %d is not a number of microseconds; -1 is no limit", *c.Quota)
	}
	for _, list := range []struct{ name, value string }{{"cpus", c.Cpus}, {"mems", c.Mems}} {
		if list.value == "" {
			continue
		}
		if _, err := parseList(list.value); err != nil {
			return fmt.Errorf("linux.resources.cpu.%s: %w", list.name, err)
		}
	}
	return nil
}

// Limit returns what one of the annotations for limits says, which limits nothing where it is not there.
func Limit(spec *specs.Spec, annotation string) (ratelimit.Config, error) {
	text, ok := spec.Annotations[annotation]
	if !ok {
		return ratelimit.Config{}, nil
	}
	c, err := ratelimit.Parse(withCommas(text))
	if err != nil {
		return c, fmt.Errorf("annotation %s: %w", annotation, err)
	}
	return c, nil
}

// withCommas takes spaces for commas as well: podman 4 divides the value of --annotation at its commas.
func withCommas(list string) string { return strings.Join(strings.Fields(list), ",") }

// checkVM checks the size of the guest and what it is to be made of.
func checkVM(spec *specs.Spec) error {
	for key := range spec.Annotations {
		if strings.HasPrefix(key, annotationPrefix) && !slices.Contains(annotations, key) {
			return fmt.Errorf("annotation %s is unknown: there are %s", key, strings.Join(annotations, ", "))
		}
	}
	if _, err := Memory(spec); err != nil {
		return err
	}
	if _, err := MaxMemory(spec); err != nil {
		return err
	}
	if _, err := CPUs(spec); err != nil {
		return err
	}
	if _, _, err := UserNetwork(spec); err != nil {
		return err
	}
	for _, key := range []string{AnnotationNetworkLimit, AnnotationDiskLimit} {
		if _, err := Limit(spec, key); err != nil {
			return err
		}
	}
	if spec.VM == nil {
		return nil
	}
	for _, file := range []struct{ name, path string }{
		{"vm.kernel.path", spec.VM.Kernel.Path}, {"vm.kernel.initrd", spec.VM.Kernel.InitRD},
	} {
		if file.path == "" {
			continue
		}
		if !filepath.IsAbs(file.path) {
			return fmt.Errorf("%s: %q is not an absolute path", file.name, file.path)
		}
		if _, err := os.Stat(file.path); err != nil {
			return fmt.Errorf("%s: %w", file.name, err)
		}
	}
	return nil
}
