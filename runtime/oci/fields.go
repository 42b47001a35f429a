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
	carried                   // carried out, wholly, with all that is below it that has no entry of its own
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

	"hooks": carried,

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
	"process.scheduler":       carried,
	"process.ioPriority":      carried,
	"process.execCPUAffinity": carried,
	"process.apparmorProfile": ignored, // engines name one on every host with AppArmor
	"process.selinuxLabel":    ignored, // refused where SELinux is on
	"process.commandLine":     ignored, // Windows'
	"process.user.username":   ignored, // Windows'

	"linux":                   described,
	"linux.sysctl":            carried,
	"linux.cgroupsPath":       carried,
	"linux.namespaces":        carried,
	"linux.timeOffsets":       carried,
	"linux.maskedPaths":       carried,
	"linux.readonlyPaths":     carried,
	"linux.rootfsPropagation": carried,
	"linux.seccomp":           carried,
	"linux.netDevices":        carried,

	"linux.seccomp.listenerPath":     refused,
	"linux.seccomp.listenerMetadata": refused,

	"linux.devices":           carried,
	"linux.personality":       carried,
	"linux.personality.flags": refused, // the specification has none
	"linux.mountLabel":        ignored, // as process.selinuxLabel
	"linux.memoryPolicy":      ignored, // the guest has one node

	"linux.resources":                          described,
	"linux.resources.devices":                  carried,
	"linux.resources.memory":                   described,
	"linux.resources.memory.limit":             carried,
	"linux.resources.memory.reservation":       carried,
	"linux.resources.memory.swap":              carried,
	"linux.resources.memory.checkBeforeUpdate": carried,
	"linux.resources.memory.disableOOMKiller":  refused, // a guest without memory would only hang
	"linux.resources.memory.swappiness":        ignored, // the guest has no swap
	"linux.resources.memory.useHierarchy":      ignored, // cgroup version 2 always does
	"linux.resources.memory.kernel":            ignored, // as runc does
	"linux.resources.memory.kernelTCP":         ignored,
	"linux.resources.pids":                     carried,
	"linux.resources.cpu":                      described,
	"linux.resources.cpu.shares":               carried,
	"linux.resources.cpu.quota":                carried,
	"linux.resources.cpu.period":               carried,
	"linux.resources.cpu.cpus":                 carried,
	"linux.resources.cpu.mems":                 carried,
	"linux.resources.cpu.burst":                carried,
	"linux.resources.cpu.idle":                 carried,
	"linux.resources.blockIO":                  carried,
	"linux.resources.hugepageLimits":           carried,
	"linux.resources.unified":                  carried,
	"linux.resources.network":                  ignored, // classes and priorities of sockets that the host does not see
	"linux.resources.rdma":                     ignored, // no such device is in a guest

	"solaris": ignored,
	"windows": ignored,
	"zos":     ignored,
	"freebsd": ignored,

	"vm":                 described,
	"vm.kernel":          carried,
	"vm.hwconfig":        described, // the name that specs-go gives it
	"vm.hwconfig.vcpus":  carried,
	"vm.hwconfig.memory": carried,
}

// zeroMeans are the optional numbers whose 0 asks for something; that of all others asks for nothing.
var zeroMeans = map[string]bool{
	"process.oomScoreAdj": true,
	"vm.hwconfig.vcpus":   true,
	"vm.hwconfig.memory":  true,
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
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if path != "" {
			name = path + "." + name
		}
		f := v.Field(i)
		if asksNothing(name, f) {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		if err := checkField(name, f); err != nil {
			return err
		}
	}
	return nil
}

func checkField(name string, f reflect.Value) error {
	switch fields[name] {
	case refused:
		return fmt.Errorf("config field %s is not supported yet", name)
	case described:
		return checkValue(name, f)
	case carried:
		return checkBelow(name, f)
	}
	return nil
}

// asksNothing says whether a field is as good as left out: engines write many of them, such as "hooks": {} and
// "blockIO": {"weight": 0}.
func asksNothing(name string, f reflect.Value) bool {
	switch f.Kind() {
	case reflect.Pointer:
		if f.IsNil() {
			return true
		}
		if f.Elem().Kind() == reflect.Struct {
			return asksNothing(name, f.Elem())
		}
		return f.Elem().IsZero() && !zeroMeans[name]
	case reflect.Struct:
		for i := range f.NumField() {
			field, _, _ := strings.Cut(f.Type().Field(i).Tag.Get("json"), ",")
			if !asksNothing(name+"."+field, f.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice, reflect.Map:
		return f.Len() == 0
	}
	return f.IsZero()
}

// checkBelow looks for refused fields in a struct, or in the elements of a list, that is carried out otherwise.
func checkBelow(name string, f reflect.Value) error {
	switch {
	case f.Kind() == reflect.Struct:
		return checkRefused(name, name, f)
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
		for i := range f.Len() {
			if err := checkRefused(name, fmt.Sprintf("%s[%d]", name, i), f.Index(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRefused(name, shown string, v reflect.Value) error {
	for i := range v.NumField() {
		field, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		d, known := fields[name+"."+field]
		if known && d == refused && !asksNothing(name+"."+field, v.Field(i)) {
			return fmt.Errorf("config field %s.%s is not supported yet", shown, field)
		}
	}
	return nil
}
