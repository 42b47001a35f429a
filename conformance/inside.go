package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A runtimeInfo is a runtime that is judged.
type runtimeInfo struct {
	Name    string
	Version string
	Build   string // hash of the binary
	Store   string // where its results are
	path    string // of the copy on the local disk
}

// A workplace is a directory on the machine's own disk, in which units run under one runtime.
type workplace struct {
	dir   string
	files string
	rt    *runtimeInfo
}

func (w *workplace) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// runInside runs the units that have no result, until the budget is spent.
func runInside(s *suite, o *options) (int, error) {
	end := time.Now().Add(o.budget)
	units, err := s.units(o.inside)
	if err != nil {
		return statusError, err
	}
	base := os.Getenv("TMPDIR")
	if _, err := os.Stat("/scratch"); err == nil {
		base = "/scratch"
	}
	dir, err := os.MkdirTemp(base, "conformance-")
	if err != nil {
		return statusError, err
	}
	defer os.RemoveAll(dir)
	// Containers in user namespaces have to get at what is in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return statusError, err
	}
	rts, err := findRuntimes(s, o, dir)
	if err != nil {
		return statusError, err
	}
	only := regexp.MustCompile(o.only)
	ran := 0 // units that left the machine as it was
	// Unit by unit, and not runtime by runtime: the last ones may change the machine.
	for _, unit := range units {
		if !only.MatchString(unit) {
			continue
		}
		fresh := s.fresh != nil && s.fresh(unit)
		for i := range rts {
			w := &workplace{dir: filepath.Join(dir, rts[i].Name), files: o.inside, rt: &rts[i]}
			todo, err := w.todo(unit, o.keep)
			if err == nil && todo && (time.Now().After(end) || fresh && ran > 0) {
				return statusMore, nil
			}
			if err == nil && todo {
				err = w.unit(s, unit)
			}
			if err != nil {
				return statusError, fmt.Errorf("%s under %s: %w", unit, w.rt.Name, err)
			}
			if todo && !fresh {
				ran++
			}
		}
	}
	return statusDone, nil
}

// todo says whether a unit has no result yet.
func (w *workplace) todo(unit string, keep bool) (bool, error) {
	old, err := store(w.rt.Store).get(unit)
	return old == nil || old.Build != w.rt.Build && !keep, err
}

// unit runs one unit.
func (w *workplace) unit(s *suite, unit string) error {
	st := store(w.rt.Store)
	r := &Result{Unit: unit, Build: w.rt.Build, Version: w.rt.Version, Kernel: kernel()}
	deaths, err := st.begin(unit)
	if err != nil {
		return err
	}
	if deaths >= 2 {
		r.Ended = "the machine died in it, twice"
		return st.put(r)
	}
	if err := w.prepare(s); err != nil {
		return err
	}
	begun := time.Now()
	if r.Assertions, r.Ended, err = s.run(w, unit); err != nil {
		return err
	}
	r.Seconds = time.Since(begun).Seconds()
	w.sweep()
	fmt.Printf("%-10s %-34s %s\n", w.rt.Name, unit, r)
	return st.put(r)
}

// prepare makes the workplace, for the first unit that runs in it.
func (w *workplace) prepare(s *suite) error {
	if _, err := os.Stat(w.dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(w.path("tmp"), 0o755); err != nil {
		return err
	}
	return s.setup(w)
}

// sweep removes what containers a unit left behind.
func (w *workplace) sweep() {
	b, err := exec.Command(w.rt.path, "list", "-q").Output()
	if err != nil {
		return
	}
	for _, id := range strings.Fields(string(b)) {
		_ = exec.Command(w.rt.path, "delete", "--force", id).Run()
	}
}

// findRuntimes copies the runtimes to the local disk, says what they are, and where their results go.
func findRuntimes(s *suite, o *options, dir string) ([]runtimeInfo, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	var rts []runtimeInfo
	for _, name := range strings.Split(o.runtimes, ",") {
		rt := runtimeInfo{Name: name, path: filepath.Join(dir, "bin", name)}
		from := filepath.Join("bin", name)
		if name != subject {
			if from, err = exec.LookPath(name); err != nil {
				return nil, err
			}
		}
		if rt.Build, err = copyHashed(from, rt.path); err != nil {
			return nil, err
		}
		b, err := exec.Command(rt.path, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("%s --version: %w", name, err)
		}
		rt.Version = versionOf(string(b))
		rt.Store = filepath.Join(cache, "results", s.id(), name+"-"+rt.Version+"-"+kernel())
		if name == subject {
			if rt.Store, err = subjectStore(s); err != nil {
				return nil, err
			}
		}
		rts = append(rts, rt)
	}
	return rts, remember(s, rts)
}

// versionOf takes the version out of "runc version 1.1.5+ds1\ncommit: ...".
func versionOf(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(first)
	if len(fields) == 0 {
		return "unknown"
	}
	return strings.ReplaceAll(fields[len(fields)-1], "/", "_")
}

// runtimesFile says under which runtimes a suite ran, and where the results are.
func runtimesFile(s *suite) string { return filepath.Join(out, s.id(), "runtimes.json") }

// remember writes down where the results are; runtimes that take no part this time stay.
func remember(s *suite, rts []runtimeInfo) error {
	known, err := recall(s)
	if err != nil {
		return err
	}
	for _, rt := range rts {
		known[rt.Name] = rt
	}
	b, err := json.MarshalIndent(known, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(runtimesFile(s)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(runtimesFile(s), append(b, '\n'), 0o644)
}

func recall(s *suite) (map[string]runtimeInfo, error) {
	known := map[string]runtimeInfo{}
	b, err := os.ReadFile(runtimesFile(s))
	if os.IsNotExist(err) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("%s: %w", runtimesFile(s), err)
	}
	// The results of another working tree may have been brought here, with its paths.
	if rt, ok := known[subject]; ok {
		if rt.Store, err = subjectStore(s); err != nil {
			return nil, err
		}
		known[subject] = rt
	}
	return known, nil
}

// subjectStore is where the results of govmm-run go.
func subjectStore(s *suite) (string, error) { return filepath.Abs(filepath.Join(out, s.id(), subject)) }

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// copyHashed copies a program and returns its hash. The test host reads this machine's files through a FUSE mount, page by
// page: a program starts several times as quickly from its own disk.
func copyHashed(from, to string) (string, error) {
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(dst, h), src); err != nil {
		dst.Close()
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], dst.Close()
}
