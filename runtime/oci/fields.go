package oci

import (
	"fmt"
	"reflect"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// decision says what becomes of a config field.
type decision int

const (
	refused   decision = iota // named in an error; also the fate of a field that no entry names
	carried                   // carried out, wholly, with all that is below it
	ignored                   // has no effect, on purpose
	described                 // decided field by field below it
)

// fields decides the fields of config.json, by their JSON names.
var fields = map[string]decision{
	"ociVersion":  carried,
	"hostname":    carried,
	"domainname":  carried,
	"annotations": ignored, // but for our own, which Plan reads
	"mounts":      carried, // but for the fields below
	"root":        carried,

	"mounts.uidMappings": refused,
	"mounts.gidMappings": refused,

	"process":                 described,
	"process.terminal":        carried,
	"process.consoleSize":     carried,
	"process.user":            carried,
	"process.args":            carried,
	"process.env":             carried,
	"process.cwd":             carried,
	"process.capabilities":    carried,
	"process.rlimits":         carried,
	"process.noNewPrivileges": carried,
	"process.oomScoreAdj":     carried,

	"linux":                   described,
	"linux.sysctl":            carried,
	"linux.cgroupsPath":       carried,
	"linux.namespaces":        carried,
	"linux.maskedPaths":       carried,
	"linux.readonlyPaths":     carried,
	"linux.rootfsPropagation": carried,
	"linux.devices":           refused,

	"linux.resources":                    described,
	"linux.resources.devices":            ignored, // no device of the host is in the guest to be allowed or denied
	"linux.resources.memory":             described,
	"linux.resources.memory.limit":       carried,
	"linux.resources.memory.reservation": carried,
	"linux.resources.pids":               carried,
	"linux.resources.cpu":                described,
	"linux.resources.cpu.shares":         carried,
	"linux.resources.cpu.quota":          carried,
	"linux.resources.cpu.period":         carried,
	"linux.resources.cpu.cpus":           carried,
	"linux.resources.cpu.mems":           carried,

	"vm":                   described,
	"vm.kernel":            carried,
	"vm.hwConfig":          described,
	"vm.hwconfig":          described,
	"vm.hwconfig.vcpus":    carried,
	"vm.hwconfig.memory":   carried,
	"vm.hypervisor":        refused,
	"vm.image":             refused,
	"vm.hypervisor.path":   refused,
	"vm.hwConfig.vcpus":    carried,
	"vm.hwConfig.memory":   carried,
	"process.selinuxLabel": refused,
}

// checkFields refuses the first field that has a value and is not carried out or ignored on purpose.
func checkFields(spec *specs.Spec) error {
	return checkValue("", reflect.ValueOf(spec).Elem())
}

// checkProcessFields does the same for the process of exec, whose fields stand at the top.
func checkProcessFields(p *specs.Process) error {
	return checkValue("process", reflect.ValueOf(p).Elem())
}

func checkValue(path string, v reflect.Value) error {
	t := v.Type()
	for i := range t.NumField() {
		f := v.Field(i)
		if f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0 || f.Kind() == reflect.Map && f.Len() == 0 {
			continue
		}
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if path != "" {
			name = path + "." + name
		}
		switch fields[name] {
		case refused:
			return fmt.Errorf("config field %s is not supported yet", name)
		case described:
			if f.Kind() == reflect.Pointer {
				f = f.Elem()
			}
			if err := checkValue(name, f); err != nil {
				return err
			}
		case carried:
			if err := checkElements(name, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkElements looks for refused fields in the elements of a list that is carried out.
func checkElements(name string, f reflect.Value) error {
	if f.Kind() != reflect.Slice || f.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	t := f.Type().Elem()
	for i := range t.NumField() {
		field, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if d, known := fields[name+"."+field]; !known || d != refused {
			continue
		}
		for j := range f.Len() {
			if !f.Index(j).Field(i).IsZero() {
				return fmt.Errorf("config field %s[%d].%s is not supported yet", name, j, field)
			}
		}
	}
	return nil
}
