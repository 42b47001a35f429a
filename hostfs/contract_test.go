package hostfs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	promise  = regexp.MustCompile(`(?m)^- \*\*([A-Z]\d+)\*\* `)
	citation = regexp.MustCompile(`Contract:\s+((?:[A-Z]\d+,?\s*)+)\.`)
)

// TestContract: each sentence of docs/filesystem.md is cited by a test ("Contract: C1, C2." in the comment above it), and each
// test cites sentences that are there.
func TestContract(t *testing.T) {
	promised := map[string]bool{}
	for _, m := range promise.FindAllStringSubmatch(readFile(t, "../docs/filesystem.md"), -1) {
		if promised[m[1]] {
			t.Errorf("two sentences have the label %s", m[1])
		}
		promised[m[1]] = true
	}
	if len(promised) < 40 {
		t.Fatalf("%d sentences were found: their form has changed", len(promised))
	}
	cited := map[string][]string{}
	for _, dir := range []string{".", "../virtio/fs", "../runtime/sandbox", "../e2e"} {
		for test, labels := range citations(t, dir) {
			for _, label := range labels {
				cited[label] = append(cited[label], test)
			}
		}
	}
	for _, label := range slices.Sorted(maps.Keys(promised)) {
		if cited[label] == nil {
			t.Errorf("docs/filesystem.md: no test cites %s", label)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(cited)) {
		if !promised[label] {
			t.Errorf("%s cites %s, which docs/filesystem.md does not have", cited[label], label)
		}
	}
}

// citations returns the labels that the tests of a package cite.
func citations(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	check(t, err)
	if len(files) == 0 {
		t.Errorf("%s has no tests", dir)
	}
	found := map[string][]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		check(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		check(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			for _, m := range citation.FindAllStringSubmatch(f.Doc.Text(), -1) {
				found[name+": "+f.Name.Name] = strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
			}
		}
	}
	return found
}
