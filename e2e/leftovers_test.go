package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// host is what a container may leave behind on the machine.
type host struct {
	Processes, Mounts, Sockets, Cgroups, States []string
	// Elsewhere are the mounts in other processes' mount namespaces that have something of the test's folder.
	Elsewhere []string
}

// autobound names are the kernel's choice for sockets that nobody is to find: other programs' come and go.
var autobound = regexp.MustCompile(`^@[0-9a-f]{5}$`)

// look lists what is there now.
func look(t *testing.T, root, dir string) host {
	t.Helper()
	var h host
	h.Processes, h.Elsewhere = lookAtProcesses(t, dir)
	h.Mounts = fileLines(t, "/proc/self/mountinfo")
	for _, line := range fileLines(t, "/proc/net/unix") {
		if f := strings.Fields(line); len(f) == 8 && !autobound.MatchString(f[7]) {
			h.Sockets = append(h.Sockets, f[7])
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			h.Cgroups = append(h.Cgroups, path)
		}
		return nil
	})
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && path != root {
			h.States = append(h.States, path)
		}
		return nil
	})
	return h
}

// lookAtProcesses lists this project's processes and conmons, dead ones that nobody has waited for included, and mounts of dir in
// other namespaces.
func lookAtProcesses(t *testing.T, dir string) (ours, elsewhere []string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	seen := map[string]bool{own: true}
	for _, p := range processes {
		// What cannot be read has ended.
		stat, _ := os.ReadFile(p + "/stat")
		env, _ := os.ReadFile(p + "/environ")
		exe, _ := os.Readlink(p + "/exe")
		_, after, _ := strings.Cut(string(stat), "(")
		switch {
		case strings.HasPrefix(string(env), "GOVMM_MONITOR="), strings.HasPrefix(string(env), "GOVMM_EXEC="):
			ours = append(ours, strings.ReplaceAll(string(env), "\x00", " "))
		case slices.Contains([]string{"govmm-run", "conmon"}, filepath.Base(exe)), strings.HasPrefix(after, "govmm-run) Z"), strings.HasPrefix(after, "govmm-monitor) Z"), strings.HasPrefix(after, "exe) Z"):
			ours = append(ours, exe+" "+string(stat))
		}
		space, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		seen[space] = true
		mounts, _ := os.ReadFile(p + "/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, dir) {
				elsewhere = append(elsewhere, space+" "+line)
			}
		}
	}
	return ours, elsewhere
}

func fileLines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// leftovers notes what the machine holds now and returns the check that it holds nothing else later. Processes get two
// seconds to end: a killed monitor's parent may have been answered before the kernel has taken it down.
func (r *rt) leftovers(t *testing.T) func() {
	t.Helper()
	before := look(t, r.root, r.dir)
	return func() {
		t.Helper()
		var diff string
		for range 20 {
			if diff = cmp.Diff(before, look(t, r.root, r.dir)); diff == "" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("left behind (+) or gone (-):\n%s", diff)
	}
}
