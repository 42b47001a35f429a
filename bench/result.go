package main

import (
	"fmt"
	"slices"
)

// The clocks: under icount one nanosecond of the test host's clock is one instruction.
const (
	clockInstructions = "icount"
	clockWall         = "wall"
)

// Result is everything of one boot of the test host.
type Result struct {
	Meta     Meta
	Clock    string
	Subjects []Subject
	Memory   Memory
}

// Meta says what was measured.
type Meta struct {
	Date, Commit, Go string
	Files            map[string]File
	Tools            map[string]string // versions, as the tools say them
}

// File is one measured file.
type File struct {
	Size   int64
	SHA256 string
}

// Subject is one tool's samples.
type Subject struct {
	Group, Name string
	Command     []string
	Error       string `json:",omitempty"`
	Samples     []Sample
	// Repeats counts the runs that never came to HELLO and were done again: see docs/benchmarks.md.
	Repeats int
	// Guest is one more run, traced by the host's KVM; nil for what makes no VM.
	Guest *Guest `json:",omitempty"`
}

// Sample is one run: nanoseconds from the fork of the tool, and peak resident memory in KiB.
type Sample struct {
	Hello, Exit int64
	// For how much of that tasks ran, on all CPUs together; on one CPU the rest is waiting.
	HelloBusy, ExitBusy int64 `json:",omitempty"`
	PeakRSS             int64
	Phases              []Phase `json:",omitempty"`
}

// Phase is one line of govmm-run's own account of a start: when it ended, in nanoseconds since the fork of the tool.
type Phase struct {
	Name string
	End  int64
}

// Guest is what the host's KVM saw of a VM's vCPUs, from the fork of the tool to HELLO: for how long they were in guest
// mode, and why they left it.
type Guest struct {
	Inside int64          // nanoseconds
	Exits  map[string]int // by hardware reason
	User   map[string]int // those that went on to the monitor, by KVM_EXIT_*
}

// Memory is a running monitor's proportional set size in KiB.
type Memory struct {
	PSS, GuestRAM, GuestSize int64
	Error                    string `json:",omitempty"`
}

// A Summary is a minimum, a median and a maximum.
type Summary struct{ Min, Median, Max int64 }

func summarize(values []int64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	s := slices.Sorted(slices.Values(values))
	return Summary{s[0], s[len(s)/2], s[len(s)-1]}
}

func (s *Subject) summary(value func(Sample) int64) Summary {
	all := make([]int64, len(s.Samples))
	for i, x := range s.Samples {
		all[i] = value(x)
	}
	return summarize(all)
}

func (s *Subject) hello() Summary { return s.summary(func(x Sample) int64 { return x.Hello }) }
func (s *Subject) exit() Summary  { return s.summary(func(x Sample) int64 { return x.Exit }) }

// typical is the sample whose time to HELLO is the median: its phases add up, those of medians would not.
func (s *Subject) typical() *Sample {
	want := s.hello().Median
	for i := range s.Samples {
		if s.Samples[i].Hello == want {
			return &s.Samples[i]
		}
	}
	return nil
}

func (r *Result) subject(name string) *Subject {
	for i := range r.Subjects {
		if r.Subjects[i].Name == name {
			return &r.Subjects[i]
		}
	}
	return nil
}

// A verdict compares a figure with what the project has set itself.
type verdict struct {
	what       string
	got, limit float64
	unit       string
}

func (v verdict) String() string {
	word := "met"
	if v.got > v.limit {
		word = "MISSED"
	}
	return fmt.Sprintf("%s\t%.1f %s\tat most %.0f\t%s", v.what, v.got, v.unit, v.limit, word)
}

// verdicts are the targets of the figures that there are.
func (r *Result) verdicts() []verdict {
	var out []verdict
	if s := r.subject(nameBoot); s != nil && len(s.Samples) > 0 {
		out = append(out, verdict{"govmm boot, bare guest, to HELLO", float64(s.hello().Median) / 1e6, 79, "M"})
		if s.Guest != nil {
			out = append(out, verdict{"  of which not in guest mode", float64(s.hello().Median-s.Guest.Inside) / 1e6, 27, "M"})
		}
	}
	if s := r.subject(nameRun); s != nil && len(s.Samples) > 0 {
		hello, exit := float64(s.hello().Median), float64(s.exit().Median)
		out = append(out, verdict{"govmm-run run, busybox, to HELLO", hello / 1e6, 100, "M"},
			verdict{"  from HELLO to exit, in percent of that", 100 * (exit - hello) / hello, 15, "%"})
	}
	return out
}
