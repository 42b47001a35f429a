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
	newer bool // than Debian's, or long: not in CI
	steps []step
}{
	{name: "podman 4.3", steps: podmanSteps},
	{name: "docker 20.10", steps: dockerSteps},
	{name: "containerd 1.6 (ctr)", steps: containerdSteps},
	{name: "podman 5.8", newer: true, steps: podman5Steps},
	{name: "docker 29", newer: true, steps: docker29Steps},
	{name: "containerd 2.3 (ctr)", newer: true, steps: containerd2Steps},
	{name: "containerd 2.3 (nerdctl 2.2)", newer: true, steps: nerdctlSteps},
	{name: "podman 4.3 under systemd", newer: true, steps: podmanSystemdSteps},
	{name: "networks of podman 4.3 (netavark)", steps: podmanNetworkSteps},
	{name: "servers in them", newer: true, steps: podmanServicesSteps},
	{name: "networks of docker 20.10 and 29", newer: true, steps: dockerNetworkSteps},
	{name: "servers in those of docker 20.10", newer: true, steps: dockerServicesSteps},
	{name: "networks of nerdctl 2.2 (CNI)", newer: true, steps: nerdctlNetworkSteps},
}

// engineSection is what docs/conformance.md says of the tables.
func engineSection() string {
	var b strings.Builder
	b.WriteString("<!-- engines: written by go test ./e2e -run TestEngineSection -update-doc -->\n## Engines\n\n")
	b.WriteString("Engines do the steps of a table with runc as their runtime and then with govmm-run, and what they print and return is compared: Debian's\n" +
		"with Debian's runc 1.1, and newer ones, which `make engines` builds through the Go module proxy, with runc 1.5. In the tables are a pull from\n" +
		"and a push to a registry of this machine's. Under systemd it is containers' scopes and the health checks that timers start. The networks are those\n" +
		"that netavark, dockerd and CNI's plugins make, and the servers Debian's nginx, redis and dnsmasq.\n\n")
	b.WriteString("| engine | steps in `make engines` | of them in CI |\n| --- | --- | --- |\n")
	for _, e := range engineTables {
		ci := 0
		for _, s := range e.steps {
			if !e.newer && !s.full && !s.newer {
				ci++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d |\n", e.name, len(e.steps), ci)
	}
	b.WriteString("\nEvery difference that is left:\n\n| engine | step | govmm-run is compared with a pattern, and not with runc, |\n| --- | --- | --- |\n")
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
	before, after := strings.TrimRight(text, "\n")+"\n\n", ""
	if begin := strings.Index(text, "<!-- engines:"); begin >= 0 {
		_, after, _ = strings.Cut(text[begin:], end)
		before = text[:begin]
	}
	if err := os.WriteFile(path, []byte(before+want+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
