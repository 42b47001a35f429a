package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// useCgroup2 lets the package work in a cgroup of its own below this machine's hierarchy of version 2.
func useCgroup2(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "govmm-test-")
		if err != nil {
			t.Skipf("needs the right to make cgroups: %v", err)
		}
		old := mountPoint
		mountPoint = dir
		t.Cleanup(func() {
			mountPoint = old
			if err := os.Remove(dir); err != nil {
				t.Errorf("left behind in the cgroup: %v", err)
			}
		})
		return
	}
	t.Skip("needs a mounted cgroup2")
}

func make2(t *testing.T, path string) *Group {
	t.Helper()
	g, err := Plan(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(nil); err != nil {
		t.Fatal(err)
	}
	return g
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestParentsGo removes what was made, and what somebody else still uses does not go.
func TestParentsGo(t *testing.T) {
	useCgroup2(t)
	a := make2(t, "/x/y/a")
	b := make2(t, "x/y/../y/b") // relative is from the root too
	if want := filepath.Join(mountPoint, "x/y/b"); b.Dir != want {
		t.Errorf("cgroup %s, want %s", b.Dir, want)
	}
	if err := a.Remove(); err != nil {
		t.Error(err)
	}
	if exists(a.Dir) || !exists(b.Dir) {
		t.Error("the wrong one of two neighbours is gone")
	}
	if err := b.Remove(); err != nil {
		t.Error(err)
	}
	// b did not make x and y: whoever did has to remove them.
	if err := a.Remove(); err != nil {
		t.Error(err)
	}
	if exists(filepath.Join(mountPoint, "x")) {
		t.Error("x is left behind")
	}
}

// TestInUse has processes in the cgroup before and after.
func TestInUse(t *testing.T) {
	useCgroup2(t)
	g := make2(t, "busy")
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := g.write("cgroup.procs", strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if _, err := Plan("/busy", nil); err == nil || !strings.Contains(err.Error(), "container's cgroup is not empty: 1 process(es) found") {
		t.Errorf("a cgroup with a process: %v", err)
	}
	if err := g.Remove(); err == nil || !strings.Contains(err.Error(), "busy: device or resource busy") {
		t.Errorf("remove with a process in it: %v", err)
	}
}

func TestRootIsRefused(t *testing.T) {
	useCgroup2(t)
	for _, path := range []string{"/", "..", "a/.."} {
		if _, err := Plan(path, nil); err == nil || !strings.Contains(err.Error(), "is the root of the hierarchy") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestWithoutCgroup2 matters on hosts of version 1: only what cannot be done is an error.
func TestWithoutCgroup2(t *testing.T) {
	old := mountPoint
	mountPoint = t.TempDir()
	defer func() { mountPoint = old }()
	if g, err := Plan("/x", nil); g != nil || err != nil {
		t.Errorf("nothing to limit: %v, %v", g, err)
	}
	if _, err := Plan("/x", &specs.LinuxCPU{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a limit: %v", err)
	}
	var none *Group
	if err := none.Remove(); err != nil {
		t.Error(err)
	}
}

func TestValues(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight of %d shares is %d, want %d", shares, got, want)
		}
	}
	n := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	for _, tt := range []struct {
		cpu  specs.LinuxCPU
		want string
	}{
		{specs.LinuxCPU{}, "max 100000"},
		{specs.LinuxCPU{Quota: n(0), Period: u(0)}, "max 100000"},
		{specs.LinuxCPU{Quota: n(-1), Period: u(5000)}, "max 5000"},
		{specs.LinuxCPU{Quota: n(2000)}, "2000 100000"},
	} {
		if got := cpuMax(&tt.cpu); got != tt.want {
			t.Errorf("%+v: cpu.max %q, want %q", tt.cpu, got, tt.want)
		}
	}
}
