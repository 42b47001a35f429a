package lifecycle

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/opencontainers/cgroups"
)

// TestStatsForm pins runc's form, field by field in its order.
func TestStatsForm(t *testing.T) {
	s := &Stats{Hugetlb: map[string]HugetlbStat{}}
	s.addGuest(map[string]string{
		"memory.current": "5000\n", "memory.max": "8192\n", "memory.peak": "6000\n", "memory.swap.current": "10\n", "memory.swap.max": "0\n",
		"memory.stat": "anon 1\nfile 4096\n", "memory.events": "max 3\noom_kill 2\n", "pids.current": "2\n", "pids.max": "9\n",
	})
	host := cgroups.NewStats()
	host.CpuStats.CpuUsage = cgroups.CpuUsage{TotalUsage: 30, UsageInKernelmode: 10, UsageInUsermode: 20, PercpuUsage: []uint64{30}}
	host.CpuStats.ThrottlingData.ThrottledPeriods = 1
	host.BlkioStats.IoServicedRecursive = []cgroups.BlkioStatEntry{{Major: 8, Minor: 1, Op: "Read", Value: 7}}
	host.HugetlbStats["2MB"] = cgroups.HugetlbStats{Usage: 1, Failcnt: 2}
	s.addHost(host)
	s.addNetwork(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0
govmm0: 3412 41    0    0    0     0          0         0     7390      63    0    0    0     0       0          0
  eth0: 7390 63 1 2    0     0          0         0     3412 41 3 4    0     0       0          0
`)
	b, err := json.Marshal(Event{Type: "stats", ID: "t1", Data: s})
	const want = `{"type":"stats","id":"t1","data":{"cpu":{"usage":{"total":30,"percpu":[30],"kernel":10,"user":20},` +
		`"throttling":{"throttledPeriods":1}},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,` +
		`"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},` +
		`"memory":{"cache":4096,"usage":{"limit":8192,"usage":5000,"max":6000,"failcnt":0},"swap":{"limit":8192,"usage":5010,"failcnt":0},` +
		`"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0},"raw":{"anon":1,"file":4096}},"pids":{"current":2,"limit":9},` +
		`"blkio":{"ioServicedRecursive":[{"major":8,"minor":1,"op":"Read","value":7}]},"hugetlb":{"2MB":{"usage":1,"failcnt":2}},` +
		`"intel_rdt":{},"network_interfaces":[{"Name":"eth0","RxBytes":7390,"RxPackets":63,"RxErrors":1,"RxDropped":2,` +
		`"TxBytes":3412,"TxPackets":41,"TxErrors":3,"TxDropped":4}]}}`
	if err != nil || string(b) != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, b, want)
	}
	if s.oomKills != 2 {
		t.Errorf("%d kills, want 2", s.oomKills)
	}
	if b, err := json.Marshal(Event{Type: "oom", ID: "t1"}); err != nil || string(b) != `{"type":"oom","id":"t1"}` {
		t.Errorf("%s, %v", b, err)
	}
}

// TestStatsOfAnything has a guest that tells nothing, no limits, and nonsense.
func TestStatsOfAnything(t *testing.T) {
	var s Stats
	s.addGuest(nil)
	if s.Memory.Usage != (MemoryEntry{}) || s.Pids != (PidsStats{}) || s.oomKills != 0 {
		t.Errorf("of nothing: %+v", s)
	}
	s.addGuest(map[string]string{"memory.max": "max\n", "memory.swap.max": "max\n", "pids.max": "max", "memory.current": "-1", "memory.stat": "\x1b[2J\na b c\nanon x\n 5"})
	if s.Memory.Usage.Limit != math.MaxUint64 || s.Memory.Swap.Limit != math.MaxUint64 || s.Pids.Limit != 0 || s.Memory.Usage.Usage != 0 || len(s.Memory.Raw) != 1 {
		t.Errorf("of nonsense: %+v", s)
	}
}

// TestStatsWithoutCgroup counts a process itself.
func TestStatsWithoutCgroup(t *testing.T) {
	for n, end := uint64(1), uint64(0); end < 1<<28; end++ { // some CPU time
		n = n*end + 1
	}
	var s Stats
	if err := s.addProcess(os.Getpid()); err != nil || s.CPU.Usage.Total == 0 || s.CPU.Usage.Total != s.CPU.Usage.User+s.CPU.Usage.Kernel {
		t.Errorf("%+v, %v", s.CPU, err)
	}
	if err := s.addProcess(1 << 30); err != ErrNotRunning {
		t.Errorf("of no process: %v", err)
	}
}
