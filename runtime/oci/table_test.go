package oci

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// allFields lists every field of config.json by the Go type, in its order; "*" stands for the keys of a map.
func allFields(t reflect.Type, path string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return allFields(t.Elem(), path)
	case reflect.Map:
		return allFields(t.Elem(), path+".*")
	case reflect.Struct:
	default:
		return nil
	}
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous { // its fields stand among those of what embeds it
			out = append(out, allFields(f.Type, path)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if path != "" {
			name = path + "." + name
		}
		out = append(out, name)
		out = append(out, allFields(f.Type, name)...)
	}
	return out
}

// decided is what fields says of a field: by its own entry, or by that of the nearest field above it that has one.
func decided(name string) decision {
	for above := name; ; {
		d, ok := fields[above]
		switch {
		case ok && above != name && d == described:
			return refused
		case ok:
			return d
		case !strings.Contains(above, "."):
			return refused
		}
		above = above[:strings.LastIndexByte(above, '.')]
	}
}

// becomes are the words of the table in docs/oci.md.
var becomes = map[string]decision{
	"guest": carried, "host": carried, "guest, host": carried, "ignored": ignored, "refused": refused, "below": described,
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\|(.*)\\|$")

// TestFieldTable holds the table in docs/oci.md against the Go type of config.json, in both directions, and against
// what the code does. Who adds a field decides what becomes of it, here and in fields.
func TestFieldTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/oci.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Fields\n")
	section, _, _ = strings.Cut(section, "\n## ")
	all := allFields(reflect.TypeFor[specs.Spec](), "")
	var listed []string
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		name, word, how := m[1], m[2], strings.TrimSpace(m[3])
		listed = append(listed, name)
		want, known := becomes[word]
		switch {
		case !slices.Contains(all, name):
			t.Errorf("%s: config.json has no such field", name)
		case !known:
			t.Errorf("%s: %q is none of the words of this table", name, word)
		case decided(name) != want:
			t.Errorf("%s: the table says %q, fields says %v", name, word, decided(name))
		case how == "" && (want == refused || want == ignored):
			t.Errorf("%s: %s without a reason", name, word)
		}
	}
	times := map[string]int{}
	for _, name := range listed {
		times[name]++
	}
	for _, name := range all {
		if n := times[name]; n != 1 {
			t.Errorf("%s is in the table %d times: decide what becomes of it, once", name, n)
		}
	}
	for name := range fields {
		if !slices.Contains(all, name) {
			t.Errorf("fields decides %s, which config.json does not have", name)
		}
	}
}
