package monitor

import (
	"fmt"
	"io"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// PhaseFormat is how the phases of a start are printed on standard error at its end.
type PhaseFormat string

// The formats. The empty one prints nothing.
const (
	PhaseTable PhaseFormat = "table" // for people
	PhaseLines PhaseFormat = "lines" // for programs: "phase NAME T", T in nanoseconds since the epoch
)

// phases are the moments of a start. A nil one records nothing.
type phases struct {
	format PhaseFormat
	names  []string
	at     []time.Time
}

// The phases of a container's life, by what ends them. Each begins where the one before it ends.
const (
	phaseCLI       = "cli"       // config.json checked, state directory and cgroup made, monitor forked, our config received
	phaseSandbox   = "sandbox"   // namespaces entered, trees made, pivoted
	phaseVM        = "vm"        // VM made, kernel loaded, devices wired
	phaseKernel    = "kernel"    // vCPU entered, kernel up to PID 1's first instruction of ours
	phaseInit      = "init"      // PID 1's own mounts made, its first message here
	phaseContainer = "container" // hand-shake done, the container's mounts made, process held ready
	phaseStart     = "start"     // state recorded, start called, process let run
	phaseProcess   = "process"   // process executed and ended, output drained
	phaseExit      = "exit"      // what the guest holds written back
)

func newPhases(f PhaseFormat, begin int64) *phases {
	if f == "" {
		return nil
	}
	return &phases{format: f, names: []string{"begin"}, at: []time.Time{time.Unix(0, begin)}}
}

func (p *phases) end(name string) { p.endAt(name, time.Now()) }

func (p *phases) endAt(name string, at time.Time) {
	if p != nil {
		p.names = append(p.names, name)
		p.at = append(p.at, at)
	}
}

// endBoot splits the boot by the guest's own clock: its hello was sent just before now. A guest that tells of a time
// before its VM's gets no phase of its own.
func (p *phases) endBoot(guest agent.Phases) {
	if p == nil {
		return
	}
	now := time.Now()
	ago := time.Duration(guest.Hello - guest.Init)
	if last := p.at[len(p.at)-1]; guest.Init <= guest.Hello && ago >= 0 && ago < now.Sub(last) {
		p.endAt(phaseKernel, now.Add(-ago))
	}
	p.endAt(phaseInit, now)
}

// write prints what was asked for.
func (p *phases) write(w io.Writer) {
	if p == nil {
		return
	}
	if p.format == PhaseLines {
		for i := range p.at {
			fmt.Fprintf(w, "phase %s %d\n", p.names[i], p.at[i].UnixNano())
		}
		return
	}
	fmt.Fprintf(w, "\n%-12s %10s %10s\n", "phase", "ms", "at ms")
	for i := 1; i < len(p.at); i++ {
		fmt.Fprintf(w, "%-12s %10.1f %10.1f\n", p.names[i], ms(p.at[i].Sub(p.at[i-1])), ms(p.at[i].Sub(p.at[0])))
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
