package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const hostCgroup = "/sys/fs/cgroup/govmm-limits/"

// limited sets every kind of limit.
func limited(s *specs.Spec) {
	memory, swap, low, quota, period, shares, burst, pids := int64(64<<20), int64(80<<20), int64(8<<20), int64(150000), uint64(100000), uint64(2048), uint64(10000), int64(40)
	zero := uint16(0)
	s.Linux.CgroupsPath = "/govmm-limits/c"
	s.Linux.Resources = &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: &memory, Swap: &swap, Reservation: &low},
		CPU:     &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Burst: &burst},
		Pids:    &specs.LinuxPids{Limit: &pids},
		BlockIO: &specs.LinuxBlockIO{Weight: &zero},
		Unified: map[string]string{"memory.oom.group": "1", "hugetlb.2MB.max": "4194304"},
	}
}

// TestLimits looks at a container's limits from inside and on the host, changes them and counts what is used.
func TestLimits(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	r.run("create", "--bundle", r.bundle(limited, "/bin/sleep", "1000"), id).want(t, 0, "", "")
	r.guestFile(id, "pids.max", "max") // before start there is no process of the user's
	r.run("update", "--pids-limit", "50", id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	r.guestFile(id, "pids.max", "50")
	r.run("exec", id, "/bin/nproc").want(t, 0, fmt.Sprintf("%d\n", min(2, runtime.NumCPU())), "")
	for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "16777216", "memory.low": "8388608", "memory.oom.group": "1", "cpu.max": "150000 100000", "cpu.max.burst": "10000", "cpu.weight": "174"} {
		r.guestFile(id, file, want)
	}
	const ram = 196 << 20 // (64 MiB + 128 MiB) / 63 * 64, to whole huge pages
	bound := strconv.Itoa(ram + 64<<20)
	for file, want := range map[string]string{
		"cpu.max": "150000 100000", "cpu.max.burst": "10000", "hugetlb.2MB.max": "4194304", "cpu.weight": "174", "memory.max": bound, "memory.low": "8388608", "pids.max": "max",
	} {
		hostFile(t, "c/"+file, want)
	}
	if total := r.number(id, "MemTotal:"); total < 64<<10 || total > ram>>10 {
		t.Errorf("MemTotal is %d KiB, of %d", total, ram>>10)
	}
	r.updates(id, bound)
	r.pausedLimits(id)
	r.moreMemory(id)
	r.eventsOf(id)
}

// updates changes limits in each way that callers have.
func (r *rt) updates(id, bound string) {
	t := r.t
	t.Helper()
	r.runInput([]byte(`{"cpu": {"quota": 50000, "shares": 0}, "memory": {"limit": 33554432, "swap": 33554432}}`), "update", "--resources=-", id).want(t, 0, "", "")
	hostFile(t, "c/cpu.max", "50000 100000")
	r.guestFile(id, "cpu.max", "50000 100000")
	r.guestFile(id, "cpu.max.burst", "10000")
	r.guestFile(id, "memory.max", "33554432")
	r.guestFile(id, "memory.swap.max", "0")
	r.guestFile(id, "pids.max", "50")
	file := filepath.Join(r.dir, "resources")
	writeFile(t, file, `{"pids": {"limit": 60}}`)
	r.run("update", "-r", file, id).want(t, 0, "", "")
	r.guestFile(id, "pids.max", "60")
	r.run("update", "--memory=128M", "--memory-swap=-1", "--cpu-period", "50000", "--cpuset-cpus", "0", "--pids-limit", "70", id).want(t, 0, "", "")
	r.guestFile(id, "memory.max", "134217728")
	r.guestFile(id, "memory.swap.max", "max")
	r.guestFile(id, "pids.max", "70")
	hostFile(t, "c/cpu.max", "50000 50000")
	r.guestFile(id, "cpu.max", "50000 50000")
	hostFile(t, "c/cpuset.cpus", "0")
	hostFile(t, "c/memory.max", bound)
	r.run("update", "--cpuset-cpus", "4000", "--memory", "64M", id).want(t, 1, "", "cpuset.cpus")
	r.guestFile(id, "memory.max", "134217728")
	r.runInput([]byte(`{"memory": {"limit": 4096, "checkBeforeUpdate": true}}`), "update", "-r", "-", id).want(t, 1, "", "rejecting memory limit 4096 <= usage ")
	r.run("update", "--memory", "-1", id).want(t, 0, "", "")
	r.guestFile(id, "memory.max", "max")
	hostFile(t, "c/memory.max", "max")
	r.run("update", "--memory", "64M", "--cpu-quota", "-1", id).want(t, 0, "", "")
	hostFile(t, "c/memory.max", bound)
	hostFile(t, "c/cpu.max", "max 50000")
}

// pausedLimits changes a limit of a guest that does not run.
func (r *rt) pausedLimits(id string) {
	t := r.t
	t.Helper()
	r.run("pause", id).want(t, 0, "", "")
	r.runInput([]byte(`{"unified": {"memory.min": "1048576"}}`), "update", "-r", "-", id).want(t, 0, "", "")
	r.run("update", "--pids-limit", "80", "--cpu-shares", "1024", id).want(t, 0, "", "")
	hostFile(t, "c/cpu.weight", "100")
	if s := r.stats(id); s.Data.Pids.Limit != 70 {
		t.Errorf("stats of a paused container: %+v", s)
	}
	r.run("resume", id).want(t, 0, "", "")
	r.guestFile(id, "pids.max", "80")
	r.guestFile(id, "cpu.weight", "100")
	r.guestFile(id, "memory.min", "1048576") // of the update before the last
}

// A pause is no use of the CPU: a container with a quota would not run again until it had paid for it.
func TestPauseIsNotUse(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	r.run("run", "--detach", "--bundle", r.sh("while :; do :; done"), id).want(t, 0, "", "")
	usage := func() (seconds float64) {
		t.Helper()
		res := r.run("exec", id, "/bin/grep", "usage_usec", "/sys/fs/cgroup/cpu.stat")
		if _, err := fmt.Sscanf(res.out, "usage_usec %f", &seconds); err != nil {
			t.Fatalf("%+v: %v", res, err)
		}
		return seconds / 1e6
	}
	const pause = 8 * time.Second // far more than what the calls take
	before, since := usage(), time.Now()
	r.run("pause", id).want(t, 0, "", "")
	time.Sleep(pause)
	r.run("resume", id).want(t, 0, "", "")
	took, ran := usage()-before, (time.Since(since) - pause).Seconds()
	if took > ran {
		t.Errorf("%.1f s of CPU time in %.1f s that were no pause", took, ran)
	}
}

// moreMemory raises the limit beyond the RAM that the guest was made with, and uses it.
func (r *rt) moreMemory(id string) {
	t := r.t
	t.Helper()
	r.run("pause", id).want(t, 0, "", "")
	r.run("update", "--memory", "600M", id).want(t, 1, "", "resume it first")
	r.run("resume", id).want(t, 0, "", "")
	r.run("update", "--memory", "600M", "--memory-swap", "600M", id).want(t, 0, "", "")
	r.guestFile(id, "memory.max", strconv.Itoa(600<<20))
	if total := r.number(id, "MemTotal:"); total < 600<<10 {
		t.Errorf("MemTotal is %d KiB", total)
	}
	hostFile(t, "c/memory.max", strconv.Itoa((600+128)<<20/63*64&^(2<<20-1)+2<<20+64<<20))
	r.run("exec", id, "/bin/awk", `BEGIN { s = "x"; for (i = 0; i < 28; i++) s = s s; print length(s) }`).want(t, 0, "268435456\n", "")
	r.run("update", "--memory", "64M", id).want(t, 0, "", "")
	r.guestFile(id, "memory.max", "67108864")
}

type event struct {
	Type, ID string
	Data     struct {
		CPU struct {
			Usage struct{ Total, User, Kernel uint64 }
		}
		Memory struct {
			Usage struct{ Limit, Usage, Max uint64 }
			Raw   map[string]uint64
		}
		Pids struct{ Current, Limit uint64 }
	}
}

func (r *rt) stats(id string) event {
	r.t.Helper()
	res := r.run("events", "--stats", id)
	var e event
	if err := json.Unmarshal([]byte(res.out), &e); err != nil || res.status != 0 {
		r.t.Fatalf("events --stats: status %d, %v, %q, %q", res.status, err, res.out, res.err)
	}
	return e
}

// eventsOf has the container use what is then counted.
func (r *rt) eventsOf(id string) {
	t := r.t
	t.Helper()
	before := r.stats(id)
	r.run("exec", "--detach", id, "/bin/sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; touch /tmp/filled; exec sleep 1000").want(t, 0, "", "")
	r.run("exec", id, "/bin/sh", "-c", "while ! test -e /tmp/filled; do sleep 0.1; done").want(t, 0, "", "")
	after := r.stats(id)
	d := after.Data
	if after.Type != "stats" || after.ID != id || d.Pids.Current != 2 || d.Pids.Limit != 80 ||
		d.Memory.Usage.Limit != 64<<20 || d.Memory.Usage.Usage < before.Data.Memory.Usage.Usage+20<<20 || d.Memory.Usage.Max < d.Memory.Usage.Usage ||
		d.Memory.Raw["shmem"] < 20<<20 || d.CPU.Usage.Total <= before.Data.CPU.Usage.Total {
		t.Errorf("before %+v, after %+v", before, after)
	}
	t.Logf("host memory.current %s, guest's %d", readHostFile(t, "c/memory.current"), d.Memory.Usage.Usage)
}

// TestOutOfMemory has the smallest limit that engines ask for killed over, which the host's cgroup must tell too.
func TestOutOfMemory(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	limit, protected := int64(16<<20), -1000
	bundle := r.bundle(func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/govmm-limits/oom"
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Cpus: "0"}}
		s.Process.OOMScoreAdj = &protected
	}, "/bin/sh", "-c", "nproc; echo 0 > /proc/self/oom_score_adj; exec tail /dev/zero")
	r.run("run", "--keep", "--bundle", bundle, id).want(t, 137, "1\n", "")
	if events := readHostFile(t, "oom/memory.events"); !strings.Contains(events, "oom_kill 1\n") {
		t.Errorf("memory.events on the host: %q", events)
	}
	r.run("update", "--pids-limit", "5", id).want(t, 1, "", "container not running")
	r.run("events", "--stats", id).want(t, 1, "", "is not running")
	r.run("delete", id).want(t, 0, "", "")
	if _, err := os.Stat(hostCgroup); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

// TestWithoutCgroup runs a container whose engine wants none made, and watches it to its end.
func TestWithoutCgroup(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	bundle := r.bundle(func(s *specs.Spec) {
		limited(s)
		s.Linux.Resources.Unified = nil // nobody else is to die with tail
	}, "/bin/sh", "-c", "tail /dev/zero; sleep 4")
	r.run("--cgroup-manager", "disabled", "--rootless=true", "create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	if _, err := os.Stat(hostCgroup); !os.IsNotExist(err) {
		t.Errorf("a cgroup: %v", err)
	}
	res := r.run("events", "--interval", "1s", id)
	if res.status != 0 || !strings.Contains(res.out, `{"type":"stats","id":"`+id+`","data":{"cpu":{"usage":{"total":`) ||
		strings.Count(res.out, `{"type":"oom","id":"`+id+`"}`) != 1 {
		t.Errorf("events: %+v", res)
	}
}

func (r *rt) guestFile(id, file, want string) {
	r.t.Helper()
	if res := r.run("exec", id, "/bin/cat", "/sys/fs/cgroup/"+file); res.out != want+"\n" {
		r.t.Errorf("guest's %s: %q, %q, want %q", file, res.out, res.err, want)
	}
}

// number returns a line of /proc/meminfo.
func (r *rt) number(id, name string) int {
	r.t.Helper()
	res := r.run("exec", id, "/bin/grep", name, "/proc/meminfo")
	f := strings.Fields(res.out)
	if len(f) < 2 {
		r.t.Fatalf("%+v", res)
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func readHostFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(hostCgroup + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func hostFile(t *testing.T, file, want string) {
	t.Helper()
	if got := readHostFile(t, file); got != want+"\n" {
		t.Errorf("host's %s: %q, want %q", file, got, want)
	}
}
