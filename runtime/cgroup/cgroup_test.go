package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/testhost/need"
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
			need.Lacking(t, need.Cgroup2, "the right to make cgroups: %v", err)
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
	need.Lacking(t, need.Cgroup2, "a mounted cgroup2")
}

func make2(t *testing.T, path string) *Group {
	t.Helper()
	g, err := Plan(Cgroupfs, path, "id")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(nil, 0); err != nil {
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
	b := make2(t, "/x/y/../y/b")
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

// occupant starts a process to be put into g. At the test's end it is killed, and g removed.
func occupant(t *testing.T, g *Group, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
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
	return cmd
}

// TestInUse has processes in the cgroup before and after.
func TestInUse(t *testing.T) {
	useCgroup2(t)
	g := make2(t, "/busy")
	cmd := occupant(t, g, "sleep", "1000")
	if err := cgroups.WriteCgroupProc(g.Dir, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := Plan(Cgroupfs, "/busy", "id"); err == nil || !strings.Contains(err.Error(), "container's cgroup is not empty: 1 process(es) found") {
		t.Errorf("a cgroup with a process: %v", err)
	}
	if err := g.Remove(); err == nil || !strings.Contains(err.Error(), "busy: device or resource busy") {
		t.Errorf("remove with a process in it: %v", err)
	}
	// One that ends meanwhile is waited for.
	time.AfterFunc(patience/4, func() { _ = cmd.Process.Kill() })
	go func() { _ = cmd.Wait() }()
	if err := g.Remove(); err != nil {
		t.Errorf("remove while its process ends: %v", err)
	}
}

func TestRootIsRefused(t *testing.T) {
	useCgroup2(t)
	for _, path := range []string{"/", "/..", "/a/.."} {
		if _, err := Plan(Cgroupfs, path, "id"); err == nil || !strings.Contains(err.Error(), "is the root of the hierarchy") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestRelative has runc's places: beside the caller's own cgroup, by the container's id where there is no path.
func TestRelative(t *testing.T) {
	useCgroup2(t)
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(mountPoint, filepath.Dir("/"+own[""]))
	for path, want := range map[string]string{"": "id", "a/b": "a/b", "../../a": "a"} {
		g, err := Plan(Cgroupfs, path, "id")
		if err != nil || g.Dir != filepath.Join(beside, want) {
			t.Errorf("%q: %+v, %v, want %s", path, g, err, filepath.Join(beside, want))
		}
	}
}

// TestNone makes no cgroup.
func TestNone(t *testing.T) {
	if g, err := Plan(Disabled, "/x", "id"); g != nil || err != nil {
		t.Errorf("disabled: %v, %v", g, err)
	}
	var none *Group
	if err := none.Remove(); err != nil {
		t.Error(err)
	}
}

// TestSystemd reads runc's form of the path; without systemd it says so.
func TestSystemd(t *testing.T) {
	if _, err := Plan(Systemd, "/x", "id"); err == nil || !strings.Contains(err.Error(), `expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/x" instead`) {
		t.Errorf("a path: %v", err)
	}
	g, err := Plan(Systemd, "machine.slice:libpod:abc", "id")
	if _, running := os.Stat("/run/systemd/system"); running != nil {
		if err == nil || !strings.Contains(err.Error(), "systemd not running on this host") {
			t.Errorf("without systemd: %+v, %v", g, err)
		}
		return
	}
	if err != nil || *g.Unit != (Unit{"machine.slice", "libpod", "abc"}) || Version2() && g.Dir != "/sys/fs/cgroup/machine.slice/libpod-abc.scope" {
		t.Errorf("got %+v, %v", g, err)
	}
}

// TestVersion1 puts a process into this machine's hierarchies of version 1 and limits it.
func TestVersion1(t *testing.T) {
	if Version2() {
		need.Lacking(t, need.Cgroup1, "cgroup version 1")
	}
	path := "/govmm-test-" + strconv.Itoa(os.Getpid()) + "/deep/c"
	g, err := Plan(Cgroupfs, path, "id")
	if err != nil {
		t.Fatal(err)
	}
	if g.Clonable() || g.Paths["memory"] == "" || g.Paths["cpu"] == "" {
		need.Lacking(t, need.Cgroup1, "the hierarchies of memory and cpu: %+v", g)
	}
	t.Cleanup(func() { // after occupant's
		if len(g.Paths) == 0 {
			t.Error("it has forgotten where it was")
		}
		for _, dir := range g.Paths {
			if top := filepath.Dir(filepath.Dir(dir)); exists(top) {
				t.Errorf("%s is left", top)
			}
		}
	})
	cmd := occupant(t, g, "sh", "-c", "while :; do :; done")
	quota, limit, low := int64(30000), int64(16<<20), int64(8<<20)
	r := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: &quota}, Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit, Reservation: &low},
		Unified: map[string]string{"memory.high": "1"}, // the guest's
	}
	if err := g.Join(cmd.Process.Pid, r, 64<<20); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			need.Lacking(t, need.Cgroup1, "the right to make cgroups: %v", err)
		}
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		g.Paths["cpu"] + "/cpu.cfs_quota_us": "30000\n", g.Paths["memory"] + "/memory.limit_in_bytes": "67108864\n",
		g.Paths["memory"] + "/cgroup.procs": strconv.Itoa(cmd.Process.Pid) + "\n",
	} {
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", file, b, err, want)
		}
	}
	if _, err := Plan(Cgroupfs, path, "id"); err == nil || !strings.Contains(err.Error(), "container's cgroup is not empty: 1 process(es) found") {
		t.Errorf("a second container: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := g.Stats()
		if err == nil && s.CpuStats.CpuUsage.TotalUsage > 0 {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("stats: %+v, %v", s, err)
		}
	}
	r.Unified = map[string]string{"cpu.idle": "1"}
	if err := g.Set(r, 64<<20); err == nil || !strings.Contains(err.Error(), "cgroup v1") {
		t.Errorf("a file of version 2: %v", err)
	}
}

// TestConvert has what the host does of a config, and not what the guest does.
func TestConvert(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	weight, zero := uint16(500), uint16(0)
	r := &specs.LinuxResources{
		CPU:            &specs.LinuxCPU{Shares: u(1024), Quota: n(50000), Period: u(100000), Burst: u(5), Idle: n(0), Cpus: "0", Mems: "0"},
		Memory:         &specs.LinuxMemory{Limit: n(16 << 20), Swap: n(20 << 20), Reservation: n(8 << 20), Swappiness: u(5)},
		Pids:           &specs.LinuxPids{Limit: n(5)},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}},
		Unified:        map[string]string{"memory.high": "1", "pids.max": "2", "cpu.weight.nice": "3"},
		BlockIO: &specs.LinuxBlockIO{
			Weight: &weight, LeafWeight: &zero, ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttled(8, 1, 2)},
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttled(8, 2, 3)}, ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{throttled(8, 3, 4)},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttled(8, 4, 5)},
		},
	}
	want := &cgroups.Resources{
		SkipDevices: true, Memory: 200 << 20, MemorySwap: 204 << 20, MemoryReservation: 8 << 20,
		CpuShares: 1024, CpuWeight: 100, CpuQuota: 50000, CpuPeriod: 100000, CpuBurst: u(5), CPUIdle: n(0), CpusetCpus: "0", CpusetMems: "0",
		BlkioWeight: 500, HugetlbLimit: []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 1}}, Unified: map[string]string{"cpu.weight.nice": "3"},
		BlkioThrottleReadBpsDevice:   []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 1, 2)},
		BlkioThrottleWriteBpsDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 2, 3)},
		BlkioThrottleReadIOPSDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 3, 4)},
		BlkioThrottleWriteIOPSDevice: []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 4, 5)},
	}
	if d := cmp.Diff(want, convert(r, 200<<20, true)); d != "" {
		t.Errorf("differs: %s", d)
	}
	r.CPU.Idle, want.CPUIdle, want.CpuShares, want.CpuWeight = n(1), n(1), 0, 0
	if d := cmp.Diff(want, convert(r, 200<<20, true)); d != "" {
		t.Errorf("what is idle has a weight: %s", d)
	}
	if got := convert(nil, 0, true); !cmp.Equal(got, &cgroups.Resources{SkipDevices: true}) {
		t.Errorf("of nothing: %+v", got)
	}
	r = &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: &zero}, Memory: &specs.LinuxMemory{Limit: n(-1), Swap: n(-1)}}
	if got := convert(r, -1, false); !cmp.Equal(got, &cgroups.Resources{SkipDevices: true, Memory: -1, MemorySwap: -1}) {
		t.Errorf("of no limits: %+v", got)
	}
}

func throttled(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}
