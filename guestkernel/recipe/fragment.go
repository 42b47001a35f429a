package recipe

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// An option is one line of a fragment: name without the CONFIG_ prefix, and
// the value as .config spells it ("y", "n", 64, 0x200000, "text").
type option struct {
	name, value string
	line        int
}

var optionLine = regexp.MustCompile(`^CONFIG_([A-Z0-9_]+)=(y|n|-?[0-9]+|0x[0-9a-fA-F]+|"[^"\\]*")$`)

// parseFragment reads one fragment. Only comments, blank lines and options are
// allowed: no "# CONFIG_X is not set", which is hard to tell from a comment.
func parseFragment(name string, text []byte) ([]option, error) {
	var opts []option
	s := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; s.Scan(); n++ {
		line := s.Text()
		if line == "" || strings.HasPrefix(line, "# ") || line == "#" {
			if strings.HasPrefix(line, "# CONFIG_") {
				return nil, fmt.Errorf("%s:%d: write CONFIG_X=n instead of a comment", name, n)
			}
			continue
		}
		m := optionLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%s:%d: %q is not CONFIG_X=value", name, n, line)
		}
		opts = append(opts, option{name: m[1], value: m[2], line: n})
	}
	return opts, s.Err()
}

// mergeFragments parses all fragments in the order of their names and refuses
// an option that is given twice.
func mergeFragments(fragments map[string][]byte) ([]option, error) {
	var all []option
	where := map[string]string{}
	for _, name := range sortedKeys(fragments) {
		opts, err := parseFragment(name, fragments[name])
		if err != nil {
			return nil, err
		}
		for _, o := range opts {
			here := fmt.Sprintf("%s:%d", name, o.line)
			if prev := where[o.name]; prev != "" {
				return nil, fmt.Errorf("%s: CONFIG_%s was given before, at %s", here, o.name, prev)
			}
			where[o.name] = here
		}
		all = append(all, opts...)
	}
	return all, nil
}

// unmet compares what was asked for with the .config that Kconfig made of it,
// and describes each difference. An option that Kconfig does not know at all
// is a difference when asked to be on; one asked to be off is not.
func unmet(asked []option, dotConfig []byte) []string {
	got := map[string]string{}
	for _, line := range strings.Split(string(dotConfig), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			got[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	var diff []string
	for _, o := range asked {
		have, ok := got[o.name]
		if !ok {
			have = "n"
		}
		if have != o.value {
			diff = append(diff, fmt.Sprintf("CONFIG_%s: asked for %s, got %s", o.name, o.value, have))
		}
	}
	return diff
}

// unknown lists the asked options that appear in no Kconfig file, given the
// set of all names that are defined there: a typing error otherwise passes
// for an option that is off.
func unknown(asked []option, defined map[string]bool) []string {
	var names []string
	for _, o := range asked {
		if !defined[o.name] {
			names = append(names, "CONFIG_"+o.name)
		}
	}
	sort.Strings(names)
	return names
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
