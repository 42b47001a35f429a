// Package govmm has only the tests of the project's own rules: which package may import which, and where unsafe stands.
package govmm

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	"kvm/kvmtest":       {"kvm", "kvm/internal/flat", "testhost/need"},
	"devices":           {},
	"boot":              {"guestmem"},
	"virtio":            {"guestmem"},
	"virtio/eventkick":  {"virtio"},
	"virtio/virtiotest": {"virtio", "guestmem"},
	"virtio/ratelimit":  {},
	"virtio/blk":        {"virtio", "virtio/ratelimit"},
	"virtio/net":        {"virtio", "virtio/ratelimit"},
	"virtio/net/frames": {"virtio/net"},
	"virtio/net/tap":    {"virtio/net", "virtio/net/frames"},
	"virtio/net/user":   {"virtio/net", "virtio/net/frames"},
	// gVisor's stack is linked into govmm-net alone, whose process costs nothing where there is none.
	"virtio/net/user/netstack": {"virtio/net", "virtio/net/user"},
	"virtio/...":               {"virtio", "guestmem"},
	"hostfs":                   {},
	"vmm":                      {"kvm", "boot", "devices", "guestmem", "virtio", "virtio/balloon", "virtio/eventkick", "virtio/mem"},
	"vmm/vmmtest":              {"vmm", "testhost/need"},
	"guestkernel/...":          {"guestkernel/..."},
	"guestkernel":              {},
	"runtime/version":          {},
	"runtime/agent":            {},
	"runtime/agent/...":        {"runtime/agent/..."},
	"runtime/...":              {"runtime/...", "vmm", "virtio/...", "hostfs", "guestkernel", "boot"},
	"cmd/govmm-run":            {"runtime/...", "vmm", "kvm/hostprobe"},
	"cmd/govmm":                {"runtime/version", "runtime/terminal", "vmm", "boot", "virtio/...", "hostfs", "guestkernel"},
	"cmd/govmm-init":           {"runtime/agent/..."},
	"cmd/govmm-net":            {"virtio/net", "virtio/net/frames", "virtio/net/user", "virtio/net/user/netstack"},
	"testhost/...":             {"testhost/...", "kvm/hostprobe"},
	"bench/...":                {"bench/..."},
	"conformance":              {"testhost/aptsource"},
	"e2e":                      {},
	"packaging":                {},
	"packaging/man":            {},
}

// parsers are the packages that parse what a guest or a user's image says. They open no files, make no system calls and
// see no memory but through guestmem.
var parsers = []string{
	"boot", "devices", "virtio", "virtio/balloon", "virtio/blk", "virtio/console", "virtio/fs", "virtio/mem", "virtio/net",
	"virtio/rng", "virtio/vsock", "runtime/agent",
}

// silent are the packages that never log.
var silent = []string{"kvm", "guestmem"}

// harmless lists, for packages that parsers may not import otherwise, names that they may use all the same: types and
// errors that standard interfaces are made of.
var harmless = map[string][]string{
	"C": {}, "unsafe": {}, "os/exec": {}, "plugin": {}, "golang.org/x/sys/unix": {},
	"os":  {"ErrDeadlineExceeded"},
	"net": {"Addr", "Conn", "Listener", "OpError", "ErrClosed"},
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string

	TestGoFiles, XTestGoFiles []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...").Output()
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

// TestStackApart: gVisor's stack is in govmm-net alone. Its packages' initialisation would cost every start of another program.
func TestStackApart(t *testing.T) {
	for _, program := range []string{"cmd/govmm", "cmd/govmm-run", "cmd/govmm-init", "cmd/govmm-net"} {
		out, err := exec.Command("go", "list", "-deps", "./"+program).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if has, want := strings.Contains(string(out), "gvisor.dev/"), program == "cmd/govmm-net"; has != want {
			t.Errorf("%s has gVisor's stack: %v", program, has)
		}
	}
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
			if slices.Contains(silent, name) && (imp == "log" || imp == "log/slog") {
				t.Errorf("%s imports %s: it must not log", name, imp)
			}
		}
	}
}

// TestArrowsAreUsed keeps the table free of packages that are gone.
func TestArrowsAreUsed(t *testing.T) {
	var names []string
	for _, p := range packages(t) {
		names = append(names, strings.TrimPrefix(p.ImportPath, module))
	}
	listed := slices.Concat(slices.Collect(maps.Keys(arrows)), parsers, silent)
	for _, rule := range listed {
		if !slices.ContainsFunc(names, func(name string) bool { return allows([]string{rule}, name) }) {
			t.Errorf("there is no package %s", rule)
		}
	}
}

// files calls visit for each Go file of a package, tests left out.
func files(t *testing.T, p listed, visit func(path string, f *ast.File)) {
	t.Helper()
	for _, name := range p.GoFiles {
		path := filepath.Join(p.Dir, name)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		visit(path, f)
	}
}

func TestParsersAreHarmless(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(parsers, strings.TrimPrefix(p.ImportPath, module)) {
			continue
		}
		files(t, p, func(path string, f *ast.File) {
			for _, imp := range f.Imports {
				name, _ := strconv.Unquote(imp.Path.Value)
				allowed, restricted := harmless[name]
				if !restricted {
					continue
				}
				if imp.Name != nil || len(allowed) == 0 {
					t.Errorf("%s imports %s, which a parser must not", path, name)
				}
				for _, used := range namesUsed(f, name) {
					if !slices.Contains(allowed, used) {
						t.Errorf("%s uses %s.%s, which a parser must not", path, name, used)
					}
				}
			}
		})
	}
}

// namesUsed returns what a file uses of a package that it imports under its own name.
func namesUsed(f *ast.File, pkg string) (used []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == filepath.Base(pkg) {
				used = append(used, s.Sel.Name)
			}
		}
		return true
	})
	return used
}

func TestUnsafeIsNamed(t *testing.T) {
	for _, p := range packages(t) {
		files(t, p, func(path string, f *ast.File) {
			for _, imp := range f.Imports {
				if imp.Path.Value == `"unsafe"` && !strings.HasSuffix(path, "_unsafe.go") {
					t.Errorf("%s imports unsafe but is not named *_unsafe.go", path)
				}
			}
		})
	}
}
