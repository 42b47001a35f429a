package monitor

import (
	"fmt"
	"io"
	"time"
)

// phases are the moments of a start, for the table that --phases prints. A nil one records nothing.
type phases struct {
	names []string
	at    []time.Time
}

// The phases of a container's life, by what ends them.
const (
	phaseCLI       = "cli"       // govmm-run: config read, monitor forked
	phaseSandbox   = "sandbox"   // monitor: namespaces entered, trees made, pivoted
	phaseVM        = "vm"        // VM made, kernel loaded, devices wired
	phaseKernel    = "kernel"    // guest kernel up to PID 1's first words
	phaseContainer = "container" // mounts made, process held ready
	phaseStart     = "start"     // process let run
	phaseProcess   = "process"   // process ended, output drained
	phaseExit      = "exit"      // VM ended
)

func newPhases(wanted bool, begin int64) *phases {
	if !wanted {
		return nil
	}
	return &phases{names: []string{"begin"}, at: []time.Time{time.Unix(0, begin)}}
}

func (p *phases) end(name string) {
	if p != nil {
		p.names = append(p.names, name)
		p.at = append(p.at, time.Now())
	}
}

// write prints a table for people, and a line a phase for programs.
func (p *phases) write(w io.Writer) {
	if p == nil {
		return
	}
	fmt.Fprintf(w, "\n%-12s %10s %10s\n", "phase", "ms", "at ms")
	for i := 1; i < len(p.at); i++ {
		fmt.Fprintf(w, "%-12s %10.1f %10.1f\n", p.names[i], ms(p.at[i].Sub(p.at[i-1])), ms(p.at[i].Sub(p.at[0])))
	}
	for i := range p.at {
		fmt.Fprintf(w, "phase %s %d\n", p.names[i], p.at[i].UnixNano())
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
