package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// print writes the tables: a row a subject with median and range, the phases of govmm-run, and memory.
func (r *Result) print(w io.Writer, title string) error {
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	group := ""
	for _, s := range r.Subjects {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(tw, "\n%s\n\tto HELLO (M)\tmin..max\tto exit (M)\tmin..max\tpeak RSS (MiB)\n", group)
		}
		if s.Error != "" {
			fmt.Fprintf(tw, "%s\tfailed: %s\n", s.Name, s.Error)
			continue
		}
		hello := summary(s.Samples, func(x Sample) int64 { return x.Hello })
		exit := summary(s.Samples, func(x Sample) int64 { return x.Exit })
		rss := summary(s.Samples, func(x Sample) int64 { return x.PeakRSS })
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%.1f\n", s.Name, millions(hello[1]), span(hello), millions(exit[1]), span(exit), float64(rss[1])/1024)
	}
	for _, s := range r.Subjects {
		s.printPhases(tw)
	}
	fmt.Fprintf(tw, "\nmonitor of a sleeping container, PSS\twith guest RAM %.1f MiB\twithout %.1f MiB\n",
		float64(r.Memory.PSS)/1024, float64(r.Memory.PSS-r.Memory.GuestRAM)/1024)
	return tw.Flush()
}

func (s *Subject) printPhases(w io.Writer) {
	if len(s.Samples) == 0 || len(s.Samples[0].Phases) == 0 {
		return
	}
	fmt.Fprintf(w, "\nphases of %s (median of each)\tmillions\tended at\n", s.Name)
	last := int64(0)
	for i, p := range s.Samples[0].Phases {
		end := summary(s.Samples, func(x Sample) int64 {
			if i < len(x.Phases) {
				return x.Phases[i].End
			}
			return 0
		})[1]
		fmt.Fprintf(w, "  %s\t%s\t%s\n", p.Name, millions(end-last), millions(end))
		last = end
	}
}

// summary returns minimum, median and maximum.
func summary(samples []Sample, value func(Sample) int64) [3]int64 {
	var all []int64
	for _, s := range samples {
		all = append(all, value(s))
	}
	if len(all) == 0 {
		return [3]int64{}
	}
	slices.Sort(all)
	return [3]int64{all[0], all[len(all)/2], all[len(all)-1]}
}

func millions(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }

func span(s [3]int64) string { return millions(s[0]) + ".." + millions(s[2]) }
