// Package govmm has only the tests of the project's own rules: which package may import which, and where unsafe stands.
package govmm

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/govmm/govmm/"

// arrows lists, for each package of ours, the packages of ours that it may import directly; a trailing "/..." stands
// for a whole subtree. docs/design.md draws the same picture.
var arrows = map[string][]string{
	"guestmem":          {},
	"kvm":               {},
	"kvm/entrycheck":    {"kvm"},
	"kvm/internal/flat": {"kvm"},
	"kvm/hostprobe":     {"kvm", "kvm/internal/flat"},
	"kvm/kvmtest":       {"kvm", "kvm/internal/flat"},
	"devices":           {},
	"boot":              {"guestmem"},
	"virtio":            {"guestmem"},
	"virtio/eventkick":  {"virtio"},
	"virtio/virtiotest": {"virtio", "guestmem"},
	"virtio/...":        {"virtio", "guestmem"},
	"hostfs":            {},
	"vmm":               {"kvm", "boot", "devices", "guestmem", "virtio", "virtio/eventkick"},
	"vmm/vmmtest":       {"vmm"},
	"guestkernel/...":   {"guestkernel/..."},
	"guestkernel":       {},
	"runtime/version":   {},
	"runtime/agent":     {},
	"runtime/agent/...": {"runtime/agent/..."},
	"runtime/...":       {"runtime/...", "vmm", "virtio/...", "hostfs", "guestkernel", "boot"},
	"cmd/govmm-run":     {"runtime/...", "vmm", "kvm/hostprobe"},
	"cmd/govmm":         {"runtime/version", "runtime/terminal", "vmm", "boot", "virtio/...", "hostfs", "guestkernel"},
	"cmd/govmm-init":    {"runtime/agent/..."},
	"testhost/...":      {"testhost/...", "kvm/hostprobe"},
	"bench/...":         {"bench/..."},
	"e2e":               {},
}

// forbidden lists standard packages that a subtree must not import: what parses a guest's bytes opens no files.
var forbidden = map[string][]string{
	"virtio":         {"os", "unsafe", "net"},
	"virtio/blk":     {"os", "unsafe"},
	"virtio/console": {"os", "unsafe"},
	"virtio/rng":     {"os", "unsafe"},
	"virtio/fs":      {"os", "unsafe"},
	"virtio/vsock":   {"unsafe"},
	"devices":        {"os", "unsafe"},
	"boot":           {"os", "unsafe"},
	"kvm":            {"log", "log/slog"},
	"guestmem":       {"log", "log/slog"},
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// lookup finds the rule for a package: its own, or the nearest subtree's.
func lookup(name string) ([]string, bool) {
	if allowed, ok := arrows[name]; ok {
		return allowed, true
	}
	for dir := name; dir != "."; dir = filepath.Dir(dir) {
		if allowed, ok := arrows[dir+"/..."]; ok {
			return allowed, true
		}
	}
	return nil, false
}

func allows(allowed []string, name string) bool {
	for _, a := range allowed {
		tree, isTree := strings.CutSuffix(a, "/...")
		if name == a || isTree && (name == tree || strings.HasPrefix(name, tree+"/")) {
			return true
		}
	}
	return false
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue // this package
		}
		allowed, ok := lookup(name)
		if !ok {
			t.Errorf("%s: no rule in arrows: decide what it may import", name)
			continue
		}
		for _, imp := range p.Imports {
			if other, ours := strings.CutPrefix(imp, module); ours && !allows(allowed, other) {
				t.Errorf("%s imports %s: the arrow points the other way", name, other)
			}
			if slices.Contains(forbidden[name], imp) && !(imp == "unsafe" && hasUnsafeFile(p)) {
				t.Errorf("%s imports %s, which it must not", name, imp)
			}
		}
	}
}

func hasUnsafeFile(p listed) bool {
	return slices.ContainsFunc(p.GoFiles, func(f string) bool { return strings.HasSuffix(f, "_unsafe.go") })
}

func TestUnsafeIsNamed(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "\t\"unsafe\"\n") && !strings.HasSuffix(f, "_unsafe.go") {
				t.Errorf("%s/%s imports unsafe but is not named *_unsafe.go", p.ImportPath, f)
			}
		}
	}
}
