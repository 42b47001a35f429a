package guest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/testhost/need"
)

// startLimited is start with a cgroup2 tree; it needs the memory and pids controllers there: the test host has them.
func startLimited(t *testing.T) (*fixture, string) {
	t.Helper()
	const mount = "/sys/fs/cgroup"
	b, err := os.ReadFile(mount + "/cgroup.controllers")
	if err != nil || !strings.Contains(string(b), "memory") || !strings.Contains(string(b), "pids") {
		need.Lacking(t, need.Cgroup2, "a cgroup v2 with the controllers memory and pids at %s", mount)
	}
	dir := filepath.Join(mount, "govmm-agent-test")
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		for range 100 {
			if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s cannot be removed", dir)
	})
	for _, d := range []string{mount, dir} {
		must(t, os.WriteFile(d+"/cgroup.subtree_control", []byte("+memory +pids"), 0))
	}
	t.Setenv("GOVMM_TEST_CGROUP", dir)
	return start(t), filepath.Join(dir, "c")
}

func TestCgroupLimits(t *testing.T) {
	f, dir := startLimited(t)
	m := f.spec("sh", "-c", "cat /proc/self/cgroup; sleep 0.2; cd /sys/fs/cgroup; cat memory.max memory.low pids.max memory.high; sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait")
	m.Mounts = append(m.Mounts, agent.Mount{Source: "cgroup", Target: "/sys/fs/cgroup", Type: "cgroup", Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, Data: "x"})
	m.Resources = agent.Resources{
		MemoryMax: 32 << 20, MemorySwap: 32 << 20, MemoryLow: 1 << 20, PidsMax: 4, Files: []agent.File{{Name: "memory.high", Value: "31M"}},
	}
	got := f.run(m, nil)
	if got.stdout != "0::/\n33554432\n1048576\n4\n32505856\n" || !strings.Contains(got.stderr, "can't fork") || got.OOMKilled {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the cgroup is left: %v", err)
	}
	m.Resources = agent.Resources{MemoryMax: 32 << 20, MemorySwap: 1 << 20}
	_, err := f.create(m, stdio{})
	wantError(t, err, agent.Invalid, "memory+swap limit should be >= memory limit")
	m.Resources = agent.Resources{Files: []agent.File{{Name: "../memory.high", Value: "1"}}}
	_, err = f.create(m, stdio{})
	wantError(t, err, agent.Invalid, "not a cgroup's file: ../memory.high")
}

// TestExecCgroup has a further process run where it is told to, and nowhere above the container.
func TestExecCgroup(t *testing.T) {
	f, dir := startLimited(t)
	p, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for cgroup, want := range map[string]string{"": "0::/\n", "/": "0::/\n", "sub": "0::/sub\n", "/sub/../sub/.": "0::/sub\n"} {
		var out strings.Builder
		e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Cgroup: cgroup, Process: f.process("cat", "/proc/self/cgroup")}, stdio{stdout: &out})
		must(t, err)
		got, err := e.Wait(f.ctx)
		must(t, err)
		if e.out.Wait(); got.Status != 0 || out.String() != want {
			t.Errorf("%q: %+v, in %q; want %q", cgroup, got, out.String(), want)
		}
	}
	// A cgroup with controllers enabled below it takes no process.
	first, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "sub/cgroup.procs"), first, 0))
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0))
	var out bytes.Buffer
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process("cat", "/proc/self/cgroup")}, stdio{stdout: &out})
	must(t, err)
	_, err = e.Wait(f.ctx)
	must(t, err)
	if e.out.Wait(); out.String() != "0::/sub\n" {
		t.Errorf("beside the first process: in %q", out.String())
	}
	if _, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Cgroup: "/", Process: f.process("true")}, stdio{}); err == nil || !strings.HasSuffix(err.Error(), "/cgroup.procs: device or resource busy") {
		t.Errorf("in a cgroup that takes no process: %v", err)
	}
	for cgroup, want := range map[string]string{"..": ".. is not a sub cgroup path", "sub/../..": "sub/../.. is not a sub cgroup path", "none": "error adding pid "} {
		if _, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Cgroup: cgroup, Process: f.process("true")}, stdio{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", cgroup, err, want)
		}
	}
	must(t, f.Signal(&agent.Signal{ID: "c", Signal: 9}))
	if _, err := p.Wait(f.ctx); err != nil {
		t.Error(err)
	}
	must(t, f.Delete("c"))
}

func TestOutOfMemory(t *testing.T) {
	f, _ := startLimited(t)
	m := f.spec("sh", "-c", "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60")
	m.Resources = agent.Resources{MemoryMax: 20 << 20, MemorySwap: 20 << 20}
	if got := f.run(m, nil); got.Status != 137 || got.Signal != 9 || !got.OOMKilled {
		t.Errorf("got %+v", got)
	}
}

func TestUpdate(t *testing.T) {
	f, dir := startLimited(t)
	p, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	must(t, f.Update(&agent.Update{ID: "c", Resources: agent.Resources{MemoryMax: 64 << 20, PidsMax: 50}}))
	must(t, f.Update(&agent.Update{ID: "c", Resources: agent.Resources{PidsMax: 1}}))
	for file, want := range map[string]string{"memory.max": "67108864\n", "pids.max": "1\n"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", file, b, err, want)
		}
	}
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process("sleep", "1000")}, stdio{})
	must(t, err)
	must(t, f.Update(&agent.Update{ID: "c", Resources: agent.Resources{PidsMax: -1}}))
	err = f.Update(&agent.Update{ID: "c", Resources: agent.Resources{Check: true, MemoryMax: 4096}})
	if agent.CodeOf(err) != agent.Invalid || !strings.HasPrefix(err.Error(), "rejecting memory limit 4096 <= usage ") {
		t.Errorf("a limit below what is used: %v", err)
	}
	err = f.Update(&agent.Update{ID: "c", Resources: agent.Resources{MemoryMax: 32 << 20, MemoryLow: 1 << 20, PidsMax: 5, Files: []agent.File{{Name: "memory.none", Value: "1"}}}})
	if err == nil || !strings.Contains(err.Error(), "memory.none") {
		t.Errorf("a file that there is not: %v", err)
	}
	stats, err := f.Stats("c")
	must(t, err)
	for _, want := range []agent.File{{Name: "memory.max", Value: "67108864\n"}, {Name: "pids.current", Value: "2\n"}, {Name: "pids.max", Value: "max\n"}} {
		if !slices.Contains(stats, want) {
			t.Errorf("no %+v in %+v", want, stats)
		}
	}
	list, err := f.Processes("c")
	must(t, err)
	if len(list) != 2 {
		t.Errorf("in the cgroup: %+v", list)
	}
	must(t, f.Signal(&agent.Signal{ID: "c", Signal: 9, All: true}))
	for _, p := range []*process{e, p} {
		if got, err := p.Wait(f.ctx); err != nil || got.Status != 137 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	must(t, f.Delete("c"))
}

// TestDeviceRules opens devices that have no driver: what the rules allow fails otherwise than what they deny.
func TestDeviceRules(t *testing.T) {
	f, _ := startLimited(t)
	const rw, all = agent.DeviceRead | agent.DeviceWrite, agent.DeviceAll
	any := agent.DeviceRule{Allow: true, Major: -1, Minor: -1, Access: all}
	for _, tt := range []struct {
		name  string
		rules []agent.DeviceRule
		want  string // what may be done to c 240:7, c 240:8, b 240:7 and zero
	}{
		{"none", nil, "-- -- -- rw"},
		{"everything", []agent.DeviceRule{any}, "rw rw rw rw"},
		{"a major number", []agent.DeviceRule{{Allow: true, Kind: unix.S_IFCHR, Major: 240, Minor: -1, Access: rw}}, "rw rw -- rw"},
		{"a minor number", []agent.DeviceRule{{Allow: true, Major: -1, Minor: 7, Access: agent.DeviceRead}}, "r- -- r- rw"},
		{"by type", []agent.DeviceRule{{Allow: true, Kind: unix.S_IFBLK, Major: -1, Minor: -1, Access: rw}}, "-- -- rw rw"},
		{"the last rule", []agent.DeviceRule{any, {Kind: unix.S_IFCHR, Major: 240, Minor: 8, Access: agent.DeviceWrite}}, "rw r- rw rw"},
		{"the last rule about all", []agent.DeviceRule{{Allow: true, Kind: unix.S_IFCHR, Major: 240, Minor: 8, Access: all}, {Major: -1, Minor: -1, Access: agent.DeviceRead}}, "-- -w -- rw"},
		{"numbers that there are none of", []agent.DeviceRule{{Allow: true, Major: 1 << 40, Minor: -1, Access: all}, {Allow: true, Major: -1, Minor: 1<<32 + 7, Access: all}}, "-- -- -- rw"},
	} {
		m := f.spec("sh", "-c", `cd /tmp; mknod a c 240 7; mknod b c 240 8; mknod c b 240 7; mknod d c 1 5
			try() { case $( { eval ": $2 $1"; } 2>&1) in *"not permitted"*) echo -n - ;; *) echo -n $3 ;; esac; }
			for f in a b c d; do try $f "<" r; try $f ">" w; echo -n " "; done`)
		m.DeviceRules = tt.rules
		if got := f.run(m, nil); got.stdout != tt.want+" " || got.stderr != "" {
			t.Errorf("%s: got %+v, want %s", tt.name, got, tt.want)
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			must(t, os.Remove(filepath.Join(f.root, "tmp", name)))
		}
	}
}
