// Package specjson reads and writes the types of the OCI specification as encoding/json does, at a fraction of the cost. When
// encoding/json meets a type for the first time it looks at all types that there may be below it, whatever there is: for specs.Spec
// those of Windows, Solaris, resctrl and so on, which takes 3.5 million instructions, in every process anew. At what is in an
// interface it looks when it gets there, so the views that are made here have interfaces in place of what is large and rare.
package specjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Direction says what a view is made for.
type Direction int

const (
	Read  Direction = iota // a view is what json.Unmarshal is given
	Write                  // a view is what json.Marshal is given
)

// Field is how a view holds the pointer, list or map at p, if there is one; the tag says omitempty.
func Field[T any](d Direction, p *T) any {
	switch v := reflect.ValueOf(p).Elem(); {
	case d == Read:
		return p
	case v.IsZero(), v.Kind() != reflect.Pointer && v.Len() == 0:
		return nil
	}
	return *p
}

// Section is how a view holds the struct at a pointer, if there is one, that has a view of its own; the tag says omitzero.
type Section[T any] struct {
	at   **T
	view func(Direction, *T) any
}

// IsZero is what omitzero asks.
func (s Section[T]) IsZero() bool { return *s.at == nil }

// MarshalJSON implements json.Marshaler.
func (s Section[T]) MarshalJSON() ([]byte, error) { return json.Marshal(s.view(Write, *s.at)) }

// UnmarshalJSON implements json.Unmarshaler.
func (s Section[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*s.at = nil
		return nil
	}
	if *s.at == nil {
		*s.at = new(T)
	}
	return json.Unmarshal(b, s.view(Read, *s.at))
}

// Describe takes the Go names of what is embedded in views out of the path of a field in an error of json.Unmarshal.
func Describe(err error) error {
	var e *json.UnmarshalTypeError
	if errors.As(err, &e) {
		path := slices.DeleteFunc(strings.Split(e.Field, "."), func(name string) bool {
			return name == "Spec" || name == "Linux" || name == "LinuxResources" // JSON's names begin with small letters
		})
		e.Field = strings.Join(path, ".")
	}
	return err
}

// Spec returns the view of a config.
func Spec(d Direction, s *specs.Spec) any {
	// A field of the view hides that of the specification, whose name it has.
	type spec struct {
		*specs.Spec
		Linux   Section[specs.Linux] `json:"linux,omitzero"`
		Hooks   any                  `json:"hooks,omitempty"`
		VM      any                  `json:"vm,omitempty"`
		Solaris any                  `json:"solaris,omitempty"`
		Windows any                  `json:"windows,omitempty"`
		ZOS     any                  `json:"zos,omitempty"`
		FreeBSD any                  `json:"freebsd,omitempty"`
	}
	return &spec{
		s, Section[specs.Linux]{&s.Linux, linux}, Field(d, &s.Hooks), Field(d, &s.VM), Field(d, &s.Solaris), Field(d, &s.Windows),
		Field(d, &s.ZOS), Field(d, &s.FreeBSD),
	}
}

func linux(d Direction, l *specs.Linux) any {
	type linux struct {
		*specs.Linux
		Resources    Section[specs.LinuxResources] `json:"resources,omitzero"`
		Seccomp      any                           `json:"seccomp,omitempty"`
		NetDevices   any                           `json:"netDevices,omitempty"`
		IntelRdt     any                           `json:"intelRdt,omitempty"`
		MemoryPolicy any                           `json:"memoryPolicy,omitempty"`
		Personality  any                           `json:"personality,omitempty"`
		TimeOffsets  any                           `json:"timeOffsets,omitempty"`
	}
	return &linux{
		l, Resources(&l.Resources), Field(d, &l.Seccomp), Field(d, &l.NetDevices), Field(d, &l.IntelRdt), Field(d, &l.MemoryPolicy),
		Field(d, &l.Personality), Field(d, &l.TimeOffsets),
	}
}

// Resources returns how a view holds limits.
func Resources(at **specs.LinuxResources) Section[specs.LinuxResources] {
	return Section[specs.LinuxResources]{at, resources}
}

func resources(d Direction, r *specs.LinuxResources) any {
	type resources struct {
		*specs.LinuxResources
		Memory         any `json:"memory,omitempty"`
		CPU            any `json:"cpu,omitempty"`
		Pids           any `json:"pids,omitempty"`
		BlockIO        any `json:"blockIO,omitempty"`
		HugepageLimits any `json:"hugepageLimits,omitempty"`
		Network        any `json:"network,omitempty"`
		Rdma           any `json:"rdma,omitempty"`
	}
	return &resources{
		r, Field(d, &r.Memory), Field(d, &r.CPU), Field(d, &r.Pids), Field(d, &r.BlockIO), Field(d, &r.HugepageLimits), Field(d, &r.Network),
		Field(d, &r.Rdma),
	}
}
