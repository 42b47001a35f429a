package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// batsTime is how long a file may take, testTime how long one test in it, where everything is emulated.
const (
	batsTime = 15 * time.Minute
	testTime = 6 * time.Minute
)

// batsPackages are what files for bats are run by.
var batsPackages = [][2]string{
	{"bats", "bats"}, {"gawk", "gawk"}, {"jq", "jq"}, {"script", "bsdutils"}, {"gcc", "gcc"}, {"busybox", "busybox-static"}, {"debootstrap", "debootstrap"},
}

// runBats runs the tests of a unit on a terminal of its own, which some tests need, and returns its test points. Those that
// it did not come to are in the plan.
func runBats(w *workplace, dir, unit string, env ...string) ([]Assertion, string, error) {
	out, errOut, filter := w.path("tap"), w.path("bats.err"), w.path("filter")
	for _, f := range []string{out, errOut} {
		_ = os.Remove(f)
	}
	file, names, err := batsNames(dir, unit)
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filter, []byte("^("+strings.Join(names, "|")+")$"), 0o644); err != nil {
		return nil, "", err
	}
	// script(1) keeps no output: what bats says goes to files past it.
	line := fmt.Sprintf("cd %s && exec bats --tap --filter \"$(cat %s)\" %s >%s 2>%s </dev/null", dir, filter, file, out, errOut)
	env = append(env, "TERM=xterm")
	if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil {
		return nil, "", err
	} else if !batsWait.Match(text) {
		env = append(env, fmt.Sprintf("BATS_TEST_TIMEOUT=%d", int(testTime.Seconds())))
	}
	_, _, ended, err := w.command(batsTime, env, "script", "-qec", line, "/dev/null")
	if err != nil {
		return nil, "", err
	}
	b, err := os.ReadFile(out)
	if err != nil {
		return nil, "", err
	}
	all, plan := parseTAP(string(b))
	if plan == len(all) && plan == len(names) {
		return all, "", nil // bats' own status only says that a test failed
	}
	said, _ := os.ReadFile(errOut)
	if ended == "" {
		ended = "ended early"
	}
	return all, strings.TrimSpace(fmt.Sprintf("%s after %d of %d tests %s", ended, len(all), len(names), lastLine(string(said)))), nil
}

var (
	batsTest = regexp.MustCompile(`(?m)^[ \t]*@test[ \t]+["'](.*)["'][ \t]*\{`)
	// batsWait waits for all children, of which bats' timer is one: with it such a test can only end by its timeout.
	batsWait  = regexp.MustCompile(`(?m)^[ \t]*wait[ \t]*(#.*)?$`)
	batsMagic = regexp.MustCompile(`[][{}()*+?.^$|\\]`)
)

// parseBats returns regular expressions for the names of a file's tests.
func parseBats(text string) (names []string) {
	for _, m := range batsTest.FindAllStringSubmatch(text, -1) {
		name := strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\$`, `$`).Replace(m[1])
		names = append(names, batsMagic.ReplaceAllString(name, `\$0`))
	}
	return names
}

// batsUnits makes units of at most n tests of the files: file#0, file#1, and so on.
func batsUnits(dir string, files []string, n int) (units []string, err error) {
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join(dir, file+".bats"))
		if err != nil {
			return nil, err
		}
		for i := range (len(parseBats(string(b))) + n - 1) / n {
			units = append(units, fmt.Sprintf("%s#%d-%d", file, n, i))
		}
	}
	return units, nil
}

// batsNames returns a unit's file and tests.
func batsNames(dir, unit string) (file string, names []string, err error) {
	file, part, _ := strings.Cut(unit, "#")
	var n, i int
	if _, err := fmt.Sscanf(part, "%d-%d", &n, &i); err != nil {
		return "", nil, fmt.Errorf("unit %q: %w", unit, err)
	}
	file += ".bats"
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return "", nil, err
	}
	all := parseBats(string(b))
	return file, all[min(n*i, len(all)):min(n*(i+1), len(all))], nil
}

// place is the part of a unit's name that people know.
func place(unit string) string {
	file, _, part := strings.Cut(unit, "#")
	if part {
		return file + ".bats"
	}
	return unit
}
