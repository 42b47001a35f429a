package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Exit statuses of the half in the test host.
const (
	statusDone  = 0
	statusError = 1
	statusMore  = 3 // its time is over, units are left
)

// runOutside runs what has no result yet, in as many boots of the test host as it takes.
func runOutside(s *suite, o *options) error {
	if err := install(s.packages); err != nil {
		return err
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(cache, "results"), 0o755); err != nil {
		return err
	}
	dir, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"go", "build", "-trimpath", "-o", filepath.Join(dir, "conformance"), "./conformance"},
		{"go", "build", "-trimpath", "-o", filepath.Join(dir, "testhost"), "./testhost"},
	} {
		if err := run("", c[0], c[1:]...); err != nil {
			return err
		}
	}
	argv := []string{filepath.Join(dir, "conformance"), "-suite", s.name, "-runtimes", o.runtimes, "-only", o.only,
		"-budget", o.budget.String(), fmt.Sprintf("-keep=%v", o.keep), "-inside", files}
	if exec.Command("bin/govmm-run", "check").Run() != nil {
		argv = append(testHost(s, o, filepath.Join(cache, "results"), dir), argv...)
	}
	return boot(argv, o)
}

// testHost is the command that runs another one in the test host.
func testHost(s *suite, o *options, writable ...string) []string {
	argv := []string{filepath.Join(out, "testhost"), "--env", "XDG_CACHE_HOME"}
	for _, dir := range writable {
		argv = append(argv, "--rw", dir)
	}
	limit := o.budget + batsTime + 3*time.Minute
	if s.timed {
		argv = append(argv, "--icount", "--real-idle")
		limit *= slowness
	}
	return append(argv, "--timeout", limit.String(), "--")
}

// slowness bounds how much slower than the wall's a clock that counts instructions may go.
const slowness = 10

// manyDeaths is how often in a row the test host may end before its time: a unit in which it dies twice has failed, so that
// more of them than a suite can have mean that it does not start at all.
const manyDeaths = 10

// boot calls the half that runs units until none is left.
func boot(argv []string, o *options) error {
	begun, deaths := time.Now(), 0
	for n := 1; ; n++ {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &exit):
			return err
		case exit.ExitCode() == statusError:
			return errors.New("the suite cannot be run: see above")
		case exit.ExitCode() == statusMore:
			deaths = 0
		default:
			deaths++
		}
		switch {
		case deaths >= manyDeaths:
			return fmt.Errorf("the test host ended %d times before its time: %w", deaths, err)
		case o.boots > 0 && n >= o.boots, time.Since(begun) > o.limit:
			return errMore
		}
	}
}

// install gets what is missing from Debian's packages.
func install(packages [][2]string) error {
	var missing []string
	for _, n := range append([][2]string{{"runc", "runc"}, {"crun", "crun"}}, packages...) {
		if _, err := exec.LookPath(n[0]); err != nil {
			missing = append(missing, n[1])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintln(os.Stderr, "installing", strings.Join(missing, " "))
	if err := run("", "apt-get", "update", "-qq"); err != nil {
		return err
	}
	return run("", "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...)
}

// run runs a command in a directory, its output on standard error.
func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
