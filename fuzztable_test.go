package govmm

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Fuzz|Test)[A-Z]\w*)\(`)
	targetRow = regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\| `(Fuzz\\w+)` \\|")
	testName  = regexp.MustCompile("`([a-z0-9/]+)\\.(Test\\w+)`")
)

// TestFuzzTable: docs/fuzzing.md has a row for each fuzz target, and names no target or test that does not exist.
func TestFuzzTable(t *testing.T) {
	exists := map[string]bool{}
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range testFunc.FindAllSubmatch(b, -1) {
				exists[strings.TrimPrefix(p.ImportPath, module)+"."+string(m[1])] = true
			}
		}
	}
	page, err := os.ReadFile("docs/fuzzing.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range slices.Concat(targetRow.FindAllSubmatch(page, -1), testName.FindAllSubmatch(page, -1)) {
		name := string(m[1]) + "." + string(m[2])
		if named[name] = true; !exists[name] {
			t.Errorf("docs/fuzzing.md names %s, which does not exist", name)
		}
	}
	for name := range exists {
		if strings.Contains(name, ".Fuzz") && !named[name] {
			t.Errorf("%s has no row in docs/fuzzing.md", name)
		}
	}
}
