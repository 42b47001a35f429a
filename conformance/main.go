// conformance runs the suites that judge runc under runc, crun and govmm-run, in the test host where this machine's KVM
// cannot run a guest kernel, and writes what came out into docs/conformance.md. What a suite needs is fetched through the Go module
// proxy and Debian's source packages and kept, with the results of runc and crun, in the user's cache; those of
// govmm-run are in build/conformance. A run that was ended goes on where it stopped.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// options are the flags, for the outer half and, as they are passed on, for the one in the test host.
type options struct {
	suite    string
	runtimes string
	only     string
	inside   string
	budget   time.Duration
	limit    time.Duration
	boots    int
	keep     bool
	show     bool
}

// out is where the results of govmm-run go, and what belongs to a run.
const out = "build/conformance"

func main() {
	var o options
	flag.StringVar(&o.suite, "suite", "", "the suite to run: "+strings.Join(suiteNames(), ", "))
	flag.StringVar(&o.runtimes, "runtimes", "", "the runtimes to run it under (default: runc, govmm-run and, where that is cheap, crun)")
	flag.StringVar(&o.only, "only", "", "run the units alone whose names match this regular expression, and print instead of writing the document")
	flag.StringVar(&o.inside, "inside", "", "run units on this machine, with the suite's files from this directory")
	flag.DurationVar(&o.budget, "budget", 20*time.Minute, "how long one boot of the test host begins new units")
	flag.DurationVar(&o.limit, "limit", 3*time.Hour, "how long the whole run may take before it has to be called again")
	flag.IntVar(&o.boots, "boots", 0, "boot the test host at most this often (0: as often as needed)")
	flag.BoolVar(&o.keep, "keep", false, "keep results of other builds of govmm-run instead of running their units again")
	flag.BoolVar(&o.show, "show", false, "run nothing: write down what the results say that are there")
	flag.Parse()
	code, err := o.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		code = 1
	}
	os.Exit(code)
}

func (o *options) run() (int, error) {
	s, err := suiteByName(o.suite)
	if err != nil {
		return 1, err
	}
	if _, err := regexp.Compile(o.only); err != nil {
		return 1, fmt.Errorf("-only: %w", err)
	}
	if o.runtimes == "" {
		o.runtimes = strings.Join(append([]string{reference, subject}, s.more...), ",")
	}
	switch {
	case o.inside != "":
		return runInside(s, o)
	case !o.show:
		if err := runOutside(s, o); err != nil {
			return 1, err
		}
	}
	return 0, o.report(s)
}

// report writes down what the results say, or prints it where only some units are of interest.
func (o *options) report(s *suite) error {
	c, err := loadComparison(s)
	if err != nil {
		return err
	}
	section, unexplained := c.section()
	if o.only != "" {
		fmt.Print(section)
	} else if err := replaceSection(document, s.name, section); err != nil {
		return err
	}
	if len(unexplained) > 0 {
		return fmt.Errorf("%d differences from runc are not explained: mend them, or add them to conformance/explanations.txt:\n  %s",
			len(unexplained), strings.Join(unexplained, "\n  "))
	}
	return nil
}

// cacheDir keeps what was fetched and the results of other runtimes, for all working trees.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "govmm", "conformance"), nil
}

var errMore = errors.New("units are left: run it again, it goes on from here")
