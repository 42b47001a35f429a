package monitor

import (
	"strings"
	"testing"

	"github.com/govmm/govmm/runtime/agent"
)

// TestWaitingLimits keeps an update that came during a pause while another has a file that later ones have not.
func TestWaitingLimits(t *testing.T) {
	var l limits
	for _, files := range []string{"", "cpu.max", "cpu.max memory.high", "cpu.max", "cpu.max cpu.weight", "cpu.max", "cpu.max cpu.weight"} {
		u := &agent.Update{}
		for _, name := range strings.Fields(files) {
			u.Resources.Files = append(u.Resources.Files, agent.File{Name: name})
		}
		l.wait(u)
	}
	var got []string
	for _, u := range l.pending {
		var names []string
		for _, f := range u.Resources.Files {
			names = append(names, f.Name)
		}
		got = append(got, strings.Join(names, " "))
	}
	if got, want := strings.Join(got, ", "), "cpu.max memory.high, cpu.max cpu.weight"; got != want {
		t.Errorf("these wait: %s; want %s", got, want)
	}
}
