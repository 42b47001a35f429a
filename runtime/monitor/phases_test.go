package monitor

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// TestPhases writes a table of which every line's end is the next one's begin.
func TestPhases(t *testing.T) {
	p := newPhases(PhaseTable, time.Now().Add(-time.Second).UnixNano())
	p.end(phaseCLI)
	p.at[1] = time.Now().Add(-500 * time.Millisecond) // the monitor's own part took half a second
	p.endBoot(agent.Phases{Init: 40e6, Hello: 140e6})
	var out bytes.Buffer
	p.write(&out)
	if got, want := strings.Join(p.names, " "), "begin cli kernel init"; got != want {
		t.Fatalf("phases %q, want %q", got, want)
	}
	if took := p.at[3].Sub(p.at[2]); took != 100*time.Millisecond {
		t.Errorf("PID 1 took %v, it says 100ms", took)
	}
	for _, want := range []string{"\nkernel            400.0      900.0\n", "\ninit              100.0     1000.0\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

// TestPhaseLines writes what the bench reads.
func TestPhaseLines(t *testing.T) {
	p := newPhases(PhaseLines, 12345)
	p.endAt(phaseCLI, time.Unix(0, 67890))
	var out bytes.Buffer
	p.write(&out)
	if got, want := out.String(), "phase begin 12345\nphase cli 67890\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if newPhases("", 0) != nil {
		t.Error("phases are recorded that nobody asked for")
	}
}

// TestPhasesOfALyingGuest gives times that cannot be: the table stays in order.
func TestPhasesOfALyingGuest(t *testing.T) {
	for _, guest := range []agent.Phases{
		{Init: 5, Hello: 4}, {Init: 0, Hello: 1 << 63}, {Init: 0, Hello: 1<<64 - 1}, {Init: 1, Hello: uint64(time.Hour)},
	} {
		p := newPhases(PhaseTable, time.Now().Add(-time.Minute).UnixNano())
		p.endBoot(guest)
		if len(p.at) != 2 || p.at[1].Before(p.at[0]) {
			t.Errorf("%+v: %v", guest, p.at)
		}
	}
	var none *phases
	none.endBoot(agent.Phases{Init: 1, Hello: 2}) // without --phases nothing is recorded
	none.end(phaseExit)
}
