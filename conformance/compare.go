package main

import (
	"fmt"
	"slices"
)

// Names of the runtime that is judged and the one that it is held against.
const (
	subject   = "govmm-run"
	reference = "runc"
)

// A comparison has the results of one suite, by runtime and unit.
type comparison struct {
	suite   *suite
	units   []string
	results map[string]map[string]*Result
	because *explanations
}

// A difference is what passes under the reference and not under the subject.
type difference struct {
	unit, name, outcome string
	detail              string
}

// Names of differences that are no assertion's.
const (
	notReached = "(not reached)"
	ending     = "(the program's end)"
)

// loadComparison reads the results of all runtimes under which the suite ran.
func loadComparison(s *suite) (*comparison, error) {
	because, err := parseExplanations(explanationsText)
	if err != nil {
		return nil, err
	}
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	c := &comparison{suite: s, results: map[string]map[string]*Result{}, because: because}
	if c.units, err = s.units(files); err != nil {
		return nil, err
	}
	rts, err := recall(s)
	if err != nil {
		return nil, err
	}
	for name, rt := range rts {
		c.results[name] = map[string]*Result{}
		for _, u := range c.units {
			r, err := store(rt.Store).get(u)
			if err != nil {
				return nil, err
			}
			if r != nil {
				c.results[name][u] = r
			}
		}
	}
	for _, name := range []string{reference, subject} {
		if len(c.results[name]) == 0 {
			return nil, fmt.Errorf("no result of %s under %s yet", s.name, name)
		}
	}
	return c, nil
}

// differences are those of all units that have run under both.
func (c *comparison) differences() (all []difference) {
	for _, u := range c.units {
		if ref, got := c.results[reference][u], c.results[subject][u]; ref != nil && got != nil {
			all = append(all, compare(ref, got)...)
		}
	}
	return all
}

// few is how many assertions that were not reached are worth their names.
const few = 3

// compare finds what passes in ref and not in got. Assertions of one name are counted: a program may make the same one several
// times. What got never came to is one difference with its number, unless it is little.
func compare(ref, got *Result) (all []difference) {
	var missing []string
	for _, name := range names(ref) {
		lost := ref.passes(name) - got.passes(name)
		for _, a := range got.Assertions {
			if lost > 0 && a.Name == name && a.Outcome != passed {
				all = append(all, difference{place(got.Unit), name, a.Outcome, a.Detail})
				lost--
			}
		}
		for range lost {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > few:
		why := got.Ended
		if why == "" {
			why = "the program took another way"
		}
		all = append(all, difference{place(got.Unit), notReached, fmt.Sprintf("%d", len(missing)), why})
	case len(missing) > 0:
		for _, name := range missing {
			all = append(all, difference{place(got.Unit), name, notReached, got.Ended})
		}
	case got.Ended != "" && ref.Ended == "":
		all = append(all, difference{place(got.Unit), ending, failed, got.Ended})
	}
	return all
}

// names are those of a result's assertions, each once, in order.
func names(r *Result) (out []string) {
	seen := map[string]bool{}
	for _, a := range r.Assertions {
		if !seen[a.Name] {
			seen[a.Name] = true
			out = append(out, a.Name)
		}
	}
	return out
}

func (r *Result) passes(name string) (n int) {
	for _, a := range r.Assertions {
		if a.Name == name && a.Outcome == passed {
			n++
		}
	}
	return n
}

// gains counts, a unit, what passes under the subject and not under the reference.
func (c *comparison) gains() (units []string, total int) {
	counts := map[string]int{}
	for _, u := range c.units {
		ref, got := c.results[reference][u], c.results[subject][u]
		if ref == nil || got == nil {
			continue
		}
		n := 0
		for _, name := range names(got) {
			n += max(got.passes(name)-ref.passes(name), 0)
		}
		if where := place(u); n > 0 {
			if counts[where] == 0 {
				units = append(units, where)
			}
			counts[where] += n
		}
		total += n
	}
	for i, u := range units {
		units[i] = fmt.Sprintf("%s (%d)", u, counts[u])
	}
	return units, total
}

// alike lists the units in which something fails under the reference and the subject alike.
func (c *comparison) alike() (units []string) {
	for _, u := range c.units {
		ref, got := c.results[reference][u], c.results[subject][u]
		if ref == nil || got == nil {
			continue
		}
		if ref.Ended != "" && got.Ended != "" || slices.ContainsFunc(got.Assertions, func(a Assertion) bool {
			return a.Outcome == failed && slices.ContainsFunc(ref.Assertions, func(b Assertion) bool { return b.Outcome == failed && a.Name == b.Name })
		}) && !slices.Contains(units, place(u)) {
			units = append(units, place(u))
		}
	}
	return units
}
