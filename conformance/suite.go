package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A suite is somebody else's tests of a container runtime.
type suite struct {
	name    string
	version string   // of what is fetched, and of how it is prepared
	about   string   // a sentence for the document
	more    []string // runtimes besides runc and govmm-run
	// prepare fills an empty directory with what the suite needs, on the machine that has a network.
	prepare func(dir string) error
	// units lists the programs or files, from what was prepared.
	units func(files string) ([]string, error)
	// setup copies to the workplace what every unit needs.
	setup func(w *workplace) error
	// run runs one unit. How it ended is empty if it ended well.
	run func(w *workplace, unit string) (all []Assertion, ended string, err error)
	// fresh says whether a unit changes the machine and needs one on which no other unit ran.
	fresh func(unit string) bool
	// timed says that units judge by seconds. Emulation stretches these, and a machine that is busy besides stretches them now and
	// then: such a suite runs where the clock counts what is done, an instruction a nanosecond, and not how long that takes here.
	timed bool
	// packages are Debian packages that are needed, by a program of each.
	packages [][2]string
}

var suites = []*suite{runtimeTools, runcBats, checkConfig, podmanSystem}

func suiteNames() (names []string) {
	for _, s := range suites {
		names = append(names, s.name)
	}
	return names
}

func suiteByName(name string) (*suite, error) {
	for _, s := range suites {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("-suite: %q is not one of %s", name, strings.Join(suiteNames(), ", "))
}

func (s *suite) id() string { return s.name + "-" + s.version }

// files returns the directory with what the suite needs, and makes it first if need be.
func (s *suite) files() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "files", s.id())
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintf(os.Stderr, "preparing %s\n", s.id())
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), s.name+".")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := s.prepare(tmp); err != nil {
		return "", fmt.Errorf("prepare %s: %w", s.id(), err)
	}
	return dir, os.Rename(tmp, dir)
}

// unitTime is how long a unit may take where everything is emulated, on a machine that may be busy besides: there is one that
// starts seventeen containers.
const unitTime = 12 * time.Minute
