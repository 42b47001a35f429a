package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// document is what the report is written to: a section a suite, between two marks; the rest is left alone.
const document = "docs/conformance.md"

const preamble = `# Conformance

What the suites that judge runc say of govmm-run. The sections below are written by ` + "`make conformance SUITE=name`" + `, which runs one suite under
runc, crun and govmm-run on the same machine; what passes under runc and not here has its reason from
` + "`conformance/explanations.txt`" + `, and the target fails while one has none.
`

func marks(suite string) (begin, end string) {
	return "<!-- suite " + suite + ": written by make conformance -->", "<!-- end of " + suite + " -->"
}

// replaceSection writes a suite's section into the document, in place of the one that is there, or behind all.
func replaceSection(path, suite, section string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = []byte(preamble), nil
	}
	if err != nil {
		return err
	}
	text, err := insertSection(string(b), suite, section)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func insertSection(text, suite, section string) (string, error) {
	begin, end := marks(suite)
	whole := begin + "\n" + section + end + "\n"
	before, rest, found := strings.Cut(text, begin+"\n")
	if !found {
		return strings.TrimRight(text, "\n") + "\n\n" + whole, nil
	}
	_, after, found := strings.Cut(rest, end+"\n")
	if !found {
		return "", fmt.Errorf("the mark %q is missing", end)
	}
	return before + whole + after, nil
}

// section is the suite's part of the document, and names the differences that have no explanation, and the explanations
// that explain nothing any more.
func (c *comparison) section() (text string, unexplained []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s Version %s; kernel of the machine: %s.\n\n", c.suite.name, c.suite.about, c.suite.version, c.kernels())
	c.table(&b)
	if rows := c.rows(&unexplained); len(rows) > 0 {
		fmt.Fprintf(&b, "\nPasses under %s and not under %s:\n\n| where | what | why |\n| --- | --- | --- |\n%s", reference, subject, strings.Join(rows, ""))
	} else {
		fmt.Fprintf(&b, "\nNothing passes under %s that does not pass under %s.\n", reference, subject)
	}
	if units, n := c.gains(); n > 0 {
		fmt.Fprintf(&b, "\n%d pass under %s and not under %s: %s.\n", n, subject, reference, strings.Join(units, ", "))
	}
	if units := c.alike(); len(units) > 0 {
		fmt.Fprintf(&b, "\nFails under both alike, wholly or in part: %s.\n", strings.Join(units, ", "))
	}
	if len(c.results[subject]) == len(c.units) {
		for _, name := range c.because.unused(c.suite.name) {
			unexplained = append(unexplained, "an explanation without a difference: "+name)
		}
	}
	return b.String(), unexplained
}

// table has a row a runtime.
func (c *comparison) table(b *strings.Builder) {
	fmt.Fprint(b, "| | run | without a failure | passed | failed | skipped |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, name := range []string{reference, "crun", subject} {
		results := c.results[name]
		if len(results) == 0 {
			continue
		}
		var whole, ok, bad, skip int
		versions := map[string]bool{}
		for _, r := range results {
			ok, bad, skip = ok+r.count(passed), bad+r.count(failed), skip+r.count(skipped)
			if r.count(failed) == 0 && r.Ended == "" {
				whole++
			}
			versions[r.Version] = true
		}
		fmt.Fprintf(b, "| %s %s | %d of %d | %d | %d | %d | %d |\n", name, sorted(versions), len(results), len(c.units), whole, ok, bad, skip)
	}
}

// rows are the differences with their reasons, those of one unit with the same reason in one.
func (c *comparison) rows(unexplained *[]string) (rows []string) {
	type key struct{ unit, why string }
	var order []key
	what := map[key][]string{}
	for _, d := range c.differences() {
		why := c.because.find(c.suite.name, d)
		if why == "" {
			why = "**not explained**"
			*unexplained = append(*unexplained, fmt.Sprintf("%s: %s: %s: %s", d.unit, d.name, d.outcome, strings.Join(strings.Fields(d.detail), " ")))
		}
		k := key{d.unit, why}
		if what[k] == nil {
			order = append(order, k)
		}
		what[k] = append(what[k], d.String())
	}
	for _, k := range order {
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", k.unit, cell(merge(what[k])), cell(k.why)))
	}
	return rows
}

// merge joins names, equal ones as one with their number.
func merge(all []string) string {
	var out []string
	counts := map[string]int{}
	for _, s := range all {
		if counts[s]++; counts[s] == 1 {
			out = append(out, s)
		}
	}
	for i, s := range out {
		if n := counts[s]; n > 1 {
			out[i] = fmt.Sprintf("%s (%d times)", s, n)
		}
	}
	return strings.Join(out, "; ")
}

func (d difference) String() string {
	switch {
	case d.name == notReached:
		return fmt.Sprintf("%s not reached (%s)", d.outcome, d.detail)
	case d.name == ending:
		return d.detail
	case d.outcome == skipped:
		return d.name + " (skipped)"
	case d.outcome == notReached:
		return d.name + " " + notReached
	}
	return d.name
}

// cell makes a text fit into a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
}

func (c *comparison) kernels() string {
	all := map[string]bool{}
	for _, results := range c.results {
		for _, r := range results {
			all[r.Kernel] = true
		}
	}
	return sorted(all)
}

func sorted(set map[string]bool) string {
	var out []string
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
