package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
)

// netMetrics are what a load is judged by, for each unit of its work.
var netMetrics = []struct {
	name  string
	gated bool // ours must be no worse than QEMU's
	of    func(*NetSample) float64
}{
	{"instructions", true, func(s *NetSample) float64 { return float64(s.Busy) }},
	{"exits", true, func(s *NetSample) float64 { return float64(sum(s.Exits)) }},
	{"to the monitor", true, func(s *NetSample) float64 { return float64(s.User) }},
	{"kicks", true, func(s *NetSample) float64 { return float64(s.Kicks) }},
	{"registers", true, func(s *NetSample) float64 { return float64(s.MMIO) }},
	{"interrupts", true, func(s *NetSample) float64 { return float64(s.IRQs) }},
	{"system calls", true, func(s *NetSample) float64 { return float64(sum(s.Syscalls)) }},
}

func sum(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// median is a figure of a subject's samples of a load; false where there are none.
func (s *NetSubject) median(load string, of func(*NetSample) float64) (float64, bool) {
	var all []float64
	for i := range s.Samples {
		if s.Samples[i].Load == load {
			all = append(all, of(&s.Samples[i]))
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[len(all)/2], true
}

// perUnit divides by how much the sample did.
func perUnit(of func(*NetSample) float64) func(*NetSample) float64 {
	return func(s *NetSample) float64 { return of(s) / float64(max(s.Units, 1)) }
}

// loads are the names of those that were measured, in their order.
func (r *NetResult) loads() (out []string) {
	for _, s := range r.Subjects {
		for _, x := range s.Samples {
			if !slices.Contains(out, x.Load) {
				out = append(out, x.Load)
			}
		}
	}
	return out
}

// unit is what a load's figures are for each of.
func (r *NetResult) unit(load string) string {
	for _, s := range r.Subjects {
		for _, x := range s.Samples {
			if x.Load == load {
				return x.Unit
			}
		}
	}
	return ""
}

func showNet(path string, b []byte) error {
	var r NetResult
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\nraw samples: %s\n", path)
	return nil
}

// print writes a table for each load, with a row for each subject.
func (r *NetResult) print(out io.Writer) error {
	fmt.Fprintf(out, "\n== networks, %s\n%s, %s, %s\n", titles[r.Clock], r.Meta.Commit, r.Meta.Date, r.Meta.Go)
	for _, name := range slices.Sorted(maps.Keys(r.Meta.Tools)) {
		fmt.Fprintf(out, "%s: %s\n", name, r.Meta.Tools[name])
	}
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	for _, s := range r.Subjects {
		if s.Error != "" {
			fmt.Fprintf(w, "%s\tfailed: %s\n", s.Name, s.Error)
		}
	}
	for _, load := range r.loads() {
		fmt.Fprintf(w, "\n%s, for each %s\tms in all\tunits\tframes", load, r.unit(load))
		for _, m := range netMetrics {
			fmt.Fprintf(w, "\t%s", m.name)
		}
		fmt.Fprintln(w)
		for i := range r.Subjects {
			r.Subjects[i].printLoad(w, load)
		}
	}
	r.printNetVerdicts(w)
	return w.Flush()
}

func (s *NetSubject) printLoad(w io.Writer, load string) {
	elapsed, ok := s.median(load, func(s *NetSample) float64 { return float64(s.Elapsed) / 1e6 })
	if !ok {
		return
	}
	units, _ := s.median(load, func(s *NetSample) float64 { return float64(s.Units) })
	frames, _ := s.median(load, perUnit(func(s *NetSample) float64 { return float64(s.Packets) }))
	fmt.Fprintf(w, "  %s\t%.0f\t%.0f\t%s", s.Name, elapsed, units, figure(frames))
	for _, m := range netMetrics {
		v, _ := s.median(load, perUnit(m.of))
		fmt.Fprintf(w, "\t%s", figure(v))
	}
	fmt.Fprintln(w)
}

// figure shows three digits that count.
func figure(v float64) string {
	switch {
	case v >= 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// The subjects that are compared: the same guest behind the same TAP.
const (
	netOurs = "govmm boot"
	netPeer = "QEMU microvm"
)

// printNetVerdicts says what of ours is worse than QEMU's.
func (r *NetResult) printNetVerdicts(w io.Writer) {
	var ours, peer *NetSubject
	for i := range r.Subjects {
		switch r.Subjects[i].Name {
		case netOurs:
			ours = &r.Subjects[i]
		case netPeer:
			peer = &r.Subjects[i]
		}
	}
	if ours == nil || peer == nil {
		return
	}
	fmt.Fprintf(w, "\n%s against %s\tours\ttheirs\t\n", netOurs, netPeer)
	for _, load := range r.loads() {
		for _, m := range netMetrics {
			a, ok := ours.median(load, perUnit(m.of))
			b, ok2 := peer.median(load, perUnit(m.of))
			if !m.gated || !ok || !ok2 {
				continue
			}
			word := "met"
			if a > b {
				word = "MISSED"
			}
			fmt.Fprintf(w, "  %s: %s\t%s\t%s\t%s\n", load, m.name, figure(a), figure(b), word)
		}
	}
}
