package main

import (
	_ "embed" // for the explanations
	"fmt"
	"regexp"
	"strings"
)

//go:embed explanations.txt
var explanationsText string

// An explanation says why something of a unit passes under runc and not here.
type explanation struct {
	suite string
	unit  string
	names *regexp.Regexp
	text  string
	used  bool
}

type explanations struct{ all []*explanation }

// parseExplanations reads blocks: a line with suite, unit and, if it is not for all of the unit, a regular expression of
// assertions' names; then the explanation, indented. Lines that begin with # are comments.
func parseExplanations(text string) (*explanations, error) {
	e := new(explanations)
	for n, line := range strings.Split(text, "\n") {
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "\t"):
			if len(e.all) == 0 {
				return nil, fmt.Errorf("explanations: line %d explains nothing", n+1)
			}
			last := e.all[len(e.all)-1]
			last.text = strings.TrimSpace(last.text + " " + strings.TrimSpace(line))
		default:
			x, err := parseSubject(line)
			if err != nil {
				return nil, fmt.Errorf("explanations: line %d: %w", n+1, err)
			}
			e.all = append(e.all, x)
		}
	}
	for _, x := range e.all {
		if x.text == "" {
			return nil, fmt.Errorf("explanations: %s %s: without a text", x.suite, x.unit)
		}
	}
	return e, nil
}

func parseSubject(line string) (*explanation, error) {
	suite, rest, _ := strings.Cut(line, " ")
	unit, names, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if unit == "" {
		return nil, fmt.Errorf("%q has no unit", line)
	}
	re, err := regexp.Compile(names)
	if err != nil {
		return nil, err
	}
	return &explanation{suite: suite, unit: unit, names: re}, nil
}

// find returns the explanation of a difference, or "".
func (e *explanations) find(suite string, d difference) string {
	for _, x := range e.all {
		if x.suite == suite && x.unit == d.unit && x.names.MatchString(d.name) {
			x.used = true
			return x.text
		}
	}
	return ""
}

// unused names the explanations of a suite for which there was no difference.
func (e *explanations) unused(suite string) (out []string) {
	for _, x := range e.all {
		if x.suite == suite && !x.used {
			out = append(out, strings.TrimSpace(x.unit+" "+x.names.String()))
		}
	}
	return out
}
