package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

var titles = map[string]string{
	clockInstructions: "millions of instructions (icount, one CPU: a nanosecond of the test host's clock is one instruction)",
	clockWall:         "milliseconds inside the test host (two emulated CPUs: compare the rows, not the figures)",
}

// phaseMeaning names both ends of each phase: it begins where the one before it ends.
var phaseMeaning = map[string]string{
	"begin":     "fork of the tool, to main of govmm-run",
	"cli":       "config.json checked, state and cgroup made, monitor forked, its config received",
	"sandbox":   "monitor: trees made, pivoted, file server ready",
	"vm":        "VM made, kernel loaded, devices wired",
	"kernel":    "vCPU entered, guest kernel, to PID 1's first instruction of ours",
	"init":      "PID 1: its own mounts, vsock up, first message received",
	"container": "hand-shake, the container's mounts, process held ready",
	"start":     "state recorded, start called, process let run",
	"process":   "exec, the process itself (HELLO), its end, output drained",
	"exit":      "what the guest holds written back",
	"gone":      "monitor and VM gone, state and cgroup removed, end of govmm-run",
}

// print writes the tables: a row a subject with median and range, targets, phases, exits and memory.
func (r *Result) print(out io.Writer) error {
	fmt.Fprintf(out, "\n== %s\n%s, %s, %s\n", titles[r.Clock], r.Meta.Commit, r.Meta.Date, r.Meta.Go)
	for _, name := range slices.Sorted(maps.Keys(r.Meta.Tools)) {
		fmt.Fprintf(out, "%s: %s\n", name, r.Meta.Tools[name])
	}
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	r.printSubjects(w)
	if r.Clock == clockInstructions {
		fmt.Fprint(w, "\ntarget\tmedian\tlimit\t\n")
		for _, v := range r.verdicts() {
			fmt.Fprintln(w, v)
		}
	}
	for _, s := range r.Subjects {
		s.printPhases(w)
	}
	r.printExits(w)
	if r.Memory.PSS > 0 {
		fmt.Fprintf(w, "\nmemory of the monitor of a sleeping container, PSS\tMiB\n  with guest RAM\t%.1f\n  without (guest RAM: %d MiB mapped)\t%.1f\n",
			float64(r.Memory.PSS)/1024, r.Memory.GuestSize/1024, float64(r.Memory.PSS-r.Memory.GuestRAM)/1024)
	} else if r.Memory.Error != "" {
		fmt.Fprintf(w, "\nmemory: %s\n", r.Memory.Error)
	}
	return w.Flush()
}

func (r *Result) printSubjects(w io.Writer) {
	group := ""
	for _, s := range r.Subjects {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(w, "\n%s\n\tto HELLO\tmin..max\tidle\tto exit\tmin..max\tidle\tguest mode\telsewhere\tpeak RSS\trepeats\n", group)
		}
		if s.Error != "" {
			fmt.Fprintf(w, "%s\tfailed: %s\n", s.Name, s.Error)
			continue
		}
		hello, exit, rss := s.hello(), s.exit(), s.summary(func(x Sample) int64 { return x.PeakRSS })
		inside, elsewhere := "-", "-"
		if s.Guest != nil {
			inside, elsewhere = millions(s.Guest.Inside), millions(hello.Median-s.Guest.Inside)
		}
		idleHello, idleExit := "-", "-"
		if r.Clock == clockInstructions {
			idleHello = millions(s.summary(func(x Sample) int64 { return x.Hello - x.HelloBusy }).Median)
			idleExit = millions(s.summary(func(x Sample) int64 { return x.Exit - x.ExitBusy }).Median)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f MiB\t%d\n", s.Name, millions(hello.Median), span(hello), idleHello,
			millions(exit.Median), span(exit), idleExit, inside, elsewhere, float64(rss.Median)/1024, s.Repeats)
	}
}

func (s *Subject) printPhases(w io.Writer) {
	t := s.typical()
	if t == nil || len(t.Phases) == 0 {
		return
	}
	fmt.Fprintf(w, "\nphases of %s\tlength\tends at\twhat\n", s.Name)
	for _, p := range t.spans() {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", p.name, millions(p.end-p.begin), millions(p.end), phaseMeaning[p.name])
	}
	fmt.Fprintf(w, "  (the run with the median time to HELLO, which came at %s)\n", millions(t.Hello))
}

// A phaseSpan is one phase with both ends.
type phaseSpan struct {
	name       string
	begin, end int64
}

// spans are the phases end to end, from the fork to the tool's end.
func (s *Sample) spans() []phaseSpan {
	var out []phaseSpan
	last := int64(0)
	for _, p := range append(slices.Clone(s.Phases), Phase{"gone", s.Exit}) {
		out = append(out, phaseSpan{p.Name, last, p.End})
		last = p.End
	}
	return out
}

// printExits writes a row a reason and a column a subject, the most frequent reasons of the first one on top.
func (r *Result) printExits(w io.Writer) {
	var with []Subject
	for _, s := range r.Subjects {
		if s.Guest != nil && s.Error == "" {
			with = append(with, s)
		}
	}
	if len(with) == 0 {
		return
	}
	for _, kind := range []struct {
		title string
		of    func(*Guest) map[string]int
	}{
		{"exits from guest mode, fork to HELLO, by reason", func(g *Guest) map[string]int { return g.Exits }},
		{"of these to the monitor", func(g *Guest) map[string]int { return g.User }},
	} {
		fmt.Fprintf(w, "\n%s", kind.title)
		total := map[string]int{}
		for _, s := range with {
			fmt.Fprintf(w, "\t%s", s.Name)
			for reason, n := range kind.of(s.Guest) {
				total[reason] += n
			}
		}
		fmt.Fprintln(w)
		for _, reason := range byCount(total) {
			fmt.Fprintf(w, "  %s", reason)
			for _, s := range with {
				fmt.Fprintf(w, "\t%d", kind.of(s.Guest)[reason])
			}
			fmt.Fprintln(w)
		}
	}
}

// byCount returns the keys, the most frequent first.
func byCount(n map[string]int) []string {
	return slices.SortedFunc(maps.Keys(n), func(a, b string) int {
		if n[a] != n[b] {
			return n[b] - n[a]
		}
		return slices.Compare([]byte(a), []byte(b))
	})
}

func millions(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }

func span(s Summary) string { return millions(s.Min) + ".." + millions(s.Max) }
