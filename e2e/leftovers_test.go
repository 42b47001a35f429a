package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// host is what a container may leave behind on the machine.
type host struct {
	Processes, Mounts, Sockets, Cgroups, States []string
}

// look lists what is there now.
func look(t *testing.T, root string) host {
	t.Helper()
	var h host
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		env, err := os.ReadFile(dir + "/environ")
		if err != nil {
			continue // it has ended
		}
		if strings.HasPrefix(string(env), "GOVMM_MONITOR=") || strings.HasPrefix(string(env), "GOVMM_EXEC=") {
			h.Processes = append(h.Processes, strings.ReplaceAll(string(env), "\x00", " "))
		}
	}
	h.Mounts = fileLines(t, "/proc/self/mountinfo")
	for _, line := range fileLines(t, "/proc/net/unix") {
		if f := strings.Fields(line); len(f) == 8 && strings.Contains(f[7], "/") {
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
	before := look(t, r.root)
	return func() {
		t.Helper()
		var diff string
		for range 20 {
			if diff = cmp.Diff(before, look(t, r.root)); diff == "" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("left behind (+) or gone (-):\n%s", diff)
	}
}
