package main

import (
	"regexp"
	"strconv"
	"strings"
)

// Outcomes of an assertion.
const (
	passed  = "ok"
	failed  = "not ok"
	skipped = "skip"
)

// An Assertion is one test point of TAP, or one line of a suite that speaks something else.
type Assertion struct {
	Name    string
	Outcome string
	Detail  string `json:",omitempty"` // what the program said about a failure, shortened
}

// What is kept of what a program says about one failure, in bytes: its beginning, and its end, where the cause stands.
const (
	detailBegin = 300
	detailEnd   = 1200
)

var (
	testPoint = regexp.MustCompile(`^(not )?ok\b *([0-9]*) *-? *(.*)$`)
	directive = regexp.MustCompile(`(?i)(^| )# *(skip|todo)\b(.*)$`)
	// What bats adds to the name of a test that took too long.
	batsTimeout = regexp.MustCompile(` # timeout after [0-9]+s$`)
	// What differs from run to run in a name.
	varying = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(ocitest|oci-pid|conformance-|bats-run-|bats\.|runc\.)[0-9A-Za-z]+|/proc/[0-9]+|\bin [0-9]+m?s(ec)?$`)
)

// parseTAP returns the test points of a TAP stream (testanything.org, version 13), and how many its plan announced, or -1
// if there is no plan. A failure's detail are the diagnostics and the YAML block behind it; a "not ok" that is to do is skipped.
func parseTAP(text string) (all []Assertion, plan int) {
	plan = -1
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if first, last, ok := strings.Cut(line, ".."); ok && first == "1" {
			last, _, _ = strings.Cut(last, " ")
			if n, err := strconv.Atoi(last); err == nil {
				plan = n
			}
			continue
		}
		if m := testPoint.FindStringSubmatch(line); m != nil {
			all = append(all, point(m[1] != "", m[3]))
			continue
		}
		if n := len(all); n > 0 && all[n-1].Outcome == failed && (strings.HasPrefix(line, "#") || strings.HasPrefix(line, " ")) {
			all[n-1].Detail += strings.TrimSpace(strings.TrimLeft(line, "#")) + "\n"
		}
	}
	for i := range all {
		all[i].Detail = shorten(all[i].Detail)
	}
	return all, plan
}

func point(bad bool, name string) Assertion {
	a := Assertion{Outcome: passed}
	if bad {
		a.Outcome = failed
	}
	if m := directive.FindStringSubmatchIndex(name); m != nil {
		if strings.EqualFold(name[m[4]:m[5]], "skip") || bad {
			a.Outcome = skipped
		}
		name = name[:m[0]]
	}
	name = batsTimeout.ReplaceAllString(name, "")
	a.Name = strings.TrimSpace(varying.ReplaceAllString(name, "*"))
	return a
}

func shorten(s string) string {
	if len(s) <= detailBegin+detailEnd {
		return s
	}
	return strings.ToValidUTF8(s[:detailBegin], "") + "\n[...]\n" + strings.ToValidUTF8(s[len(s)-detailEnd:], "")
}
