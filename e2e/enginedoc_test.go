package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var updateDoc = flag.Bool("update-doc", false, "write the engines' section of docs/conformance.md")

// engineTables are the scenario tables, each of which runs under runc and under govmm-run.
var engineTables = []struct {
	name  string
	steps []step
}{{"podman 4.3", podmanSteps}, {"docker 20.10", dockerSteps}, {"containerd 1.6 (ctr)", containerdSteps}}

// engineSection is what docs/conformance.md says of the tables.
func engineSection() string {
	var b strings.Builder
	b.WriteString("<!-- engines: written by go test ./e2e -run TestEngineSection -update-doc -->\n## Engines\n\n")
	b.WriteString("Debian's podman, docker and containerd do the steps of a table with runc as their runtime and then with govmm-run, and what they print\n" +
		"and return is compared (`make engines`; CI runs the short form). Every difference that is left:\n\n")
	b.WriteString("| engine | steps | of them in the short form |\n| --- | --- | --- |\n")
	for _, e := range engineTables {
		short := 0
		for _, s := range e.steps {
			if !s.full {
				short++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d |\n", e.name, len(e.steps), short)
	}
	b.WriteString("\n| engine | step | govmm-run is compared with a pattern, and not with runc, |\n| --- | --- | --- |\n")
	for _, e := range engineTables {
		for _, s := range e.steps {
			if s.differs != "" {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", e.name, s.name, s.differs)
			}
		}
	}
	b.WriteString("<!-- end of engines -->\n")
	return b.String()
}

// TestEngineSection holds docs/conformance.md against the tables.
func TestEngineSection(t *testing.T) {
	const path = "../docs/conformance.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text, want := string(b), engineSection()
	if strings.Contains(text, want) {
		return
	}
	if !*updateDoc {
		t.Fatal("the engines' section of docs/conformance.md is not that of the tables: go test ./e2e -run TestEngineSection -update-doc")
	}
	const end = "<!-- end of engines -->\n"
	if begin := strings.Index(text, "<!-- engines:"); begin >= 0 {
		rest := text[begin:]
		text = text[:begin] + rest[strings.Index(rest, end)+len(end):]
	}
	if err := os.WriteFile(path, []byte(strings.TrimRight(text, "\n")+"\n\n"+want), 0o644); err != nil {
		t.Fatal(err)
	}
}
