package oci

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
)

func uptr(n uint64) *uint64 { return &n }

// TestUpdateResources keeps what an update leaves out or gives as 0, in runc's way.
func TestUpdateResources(t *testing.T) {
	yes := true
	old := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(64 << 20), Swap: ptr(128 << 20), CheckBeforeUpdate: &yes},
		CPU:     &specs.LinuxCPU{Quota: ptr(50000), Period: uptr(100000), Shares: uptr(512), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(10)},
		Unified: map[string]string{"memory.max": "1000000", "memory.high": "5"},
	}
	for _, tt := range []struct {
		name   string
		change specs.LinuxResources
		want   specs.LinuxResources
	}{
		{"nothing", specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: ptr(0), Shares: uptr(0)}, Memory: &specs.LinuxMemory{Limit: ptr(0), CheckBeforeUpdate: &yes}, Pids: &specs.LinuxPids{Limit: ptr(0)},
			BlockIO: &specs.LinuxBlockIO{Weight: new(uint16)},
		}, specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(1000000), Swap: ptr(128 << 20), CheckBeforeUpdate: &yes},
			CPU:    old.CPU, Pids: old.Pids, BlockIO: &specs.LinuxBlockIO{},
		}},
		{"only the CPU", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(5)}}, specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(1000000), Swap: ptr(128 << 20)},
			CPU:    &specs.LinuxCPU{Quota: ptr(5), Period: uptr(100000), Shares: uptr(512), Cpus: "0"}, Pids: old.Pids,
		}},
		{"all", specs.LinuxResources{
			CPU:    &specs.LinuxCPU{Quota: ptr(-1), Burst: uptr(0), Idle: ptr(0), Cpus: "1", Mems: "0"},
			Memory: &specs.LinuxMemory{Limit: ptr(-1)}, Pids: &specs.LinuxPids{Limit: ptr(-1)}, Unified: map[string]string{"memory.high": "max"},
		}, specs.LinuxResources{
			CPU:     &specs.LinuxCPU{Quota: ptr(-1), Period: uptr(100000), Shares: uptr(512), Burst: uptr(0), Idle: ptr(0), Cpus: "1", Mems: "0"},
			Memory:  &specs.LinuxMemory{Limit: ptr(-1), Swap: ptr(-1)},
			Pids:    &specs.LinuxPids{Limit: ptr(-1)},
			Unified: map[string]string{"memory.high": "max"},
		}},
	} {
		got, err := UpdateResources(old, &tt.change)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if d := cmp.Diff(&tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	if got, err := UpdateResources(nil, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(5)}}); err != nil || *got.Pids.Limit != 5 || len(got.Unified) != 0 {
		t.Errorf("of nothing: %+v, %v", got, err)
	}
	for want, change := range map[string]specs.LinuxResources{
		"should be >= memory limit": {Memory: &specs.LinuxMemory{Limit: ptr(1 << 30)}}, // above the swap limit that stays
		"config field linux.resources.memory.disableOOMKiller is not supported yet": {Memory: &specs.LinuxMemory{DisableOOMKiller: &yes}},
		`"../x.y" is not a cgroup's file`:                                           {Unified: map[string]string{"../x.y": "1"}},
	} {
		if _, err := UpdateResources(old, &change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if *old.Memory.Limit != 64<<20 || old.Unified["memory.high"] != "5" || old.Unified["memory.max"] == "" {
		t.Errorf("an update changed what was in force: %+v", old)
	}
}

// TestUpdateFiles leaves what a config has as a file alone, whatever its field says: the field is in force no more.
func TestUpdateFiles(t *testing.T) {
	const weight, burst, bandwidth, memory = "cpu.weight=59 ", "cpu.max.burst=7 ", "cpu.max.burst=0 cpu.max=50000 100000 cpu.max.burst=7 ", "low=3 swap=9"
	for _, tt := range []struct{ file, text, want string }{
		{"memory.high", "5", "cpu.idle=0 " + weight + bandwidth + memory},
		{"cpu.max", "20000 40000", "cpu.idle=0 " + weight + "cpu.max.burst=0 cpu.max=20000 40000 " + burst + memory},
		{"cpu.max", "max\n", "cpu.idle=0 " + weight + "cpu.max.burst=0 cpu.max=max 100000 " + burst + memory},
		{"cpu.max.burst", "5", "cpu.idle=0 " + weight + "cpu.max.burst=0 cpu.max=50000 100000 cpu.max.burst=5 " + memory},
		{"cpu.weight", "5", "cpu.idle=0 " + bandwidth + memory},
		{"cpu.weight.nice", "5", "cpu.idle=0 " + bandwidth + memory},
		{"cpu.idle", "1", "cpu.idle=1 " + bandwidth + memory},
		{"memory.low", "5", "cpu.idle=0 " + weight + bandwidth + "swap=9"},
		{"memory.swap.max", "5", "cpu.idle=0 " + weight + bandwidth + "low=3"},
	} {
		file, want := tt.file, tt.want
		old := &specs.LinuxResources{
			CPU:     &specs.LinuxCPU{Quota: ptr(50000), Period: uptr(100000), Shares: uptr(512), Burst: uptr(7), Idle: ptr(0)},
			Memory:  &specs.LinuxMemory{Reservation: ptr(3), Swap: ptr(9)},
			Unified: map[string]string{file: tt.text},
		}
		now, err := UpdateResources(old, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(10)}})
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		r := GuestResources(now)
		var got []string
		for _, f := range r.Files {
			got = append(got, f.Name+"="+f.Value)
		}
		if r.MemoryLow != 0 {
			got = append(got, fmt.Sprint("low=", r.MemoryLow))
		}
		if r.MemorySwap != 0 {
			got = append(got, fmt.Sprint("swap=", r.MemorySwap))
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: an update writes %s; want %s", file, got, want)
		}
		if old.CPU.Quota == nil || old.CPU.Shares == nil || old.Memory.Swap == nil {
			t.Errorf("%s: an update changed what was in force: %+v", file, old)
		}
	}
}

func TestGuestResources(t *testing.T) {
	yes := true
	got := GuestResources(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(1), Swap: ptr(-1), Reservation: ptr(3), CheckBeforeUpdate: &yes},
		Pids:    &specs.LinuxPids{Limit: ptr(4)},
		Unified: map[string]string{"memory.max": "4096", "pids.max": "7", "memory.high": "max", "cpu.max": "1 2", "memory.oom.group": "1", "cpu.uclamp.min": "20", "memory.zswap.max": "0"},
	})
	want := agent.Resources{
		Check: true, MemoryMax: 4096, MemorySwap: -1, MemoryLow: 3, PidsMax: 7,
		Files: []agent.File{{Name: "cpu.max", Value: "1 2"}, {Name: "memory.high", Value: "max"}, {Name: "memory.oom.group", Value: "1"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(agent.Resources{}, GuestResources(nil)); d != "" {
		t.Error(d)
	}
}

// TestGuestCPU holds the guest's files against what the library writes on the host.
func TestGuestCPU(t *testing.T) {
	unsigned := func(n uint64) *uint64 { return &n }
	for _, tt := range []struct {
		cpu  specs.LinuxCPU
		want string
	}{
		{specs.LinuxCPU{Cpus: "0", Mems: "0"}, ""},
		{specs.LinuxCPU{Shares: unsigned(0), Quota: ptr(0)}, ""},
		{specs.LinuxCPU{Shares: unsigned(512)}, "cpu.weight=59"},
		{specs.LinuxCPU{Shares: unsigned(1024), Idle: ptr(1)}, "cpu.idle=1"},
		{specs.LinuxCPU{Shares: unsigned(1024), Idle: ptr(0)}, "cpu.idle=0 cpu.weight=100"},
		{specs.LinuxCPU{Quota: ptr(50000)}, "cpu.max=50000 100000"},
		{specs.LinuxCPU{Quota: ptr(-1), Period: unsigned(20000)}, "cpu.max=max 20000"},
		{specs.LinuxCPU{Burst: unsigned(7)}, "cpu.max.burst=7"},
		{specs.LinuxCPU{Quota: ptr(50000), Burst: unsigned(7)}, "cpu.max.burst=0 cpu.max=50000 100000 cpu.max.burst=7"},
	} {
		var got []string
		for _, f := range GuestResources(&specs.LinuxResources{CPU: &tt.cpu}).Files {
			got = append(got, f.Name+"="+f.Value)
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.cpu, got, tt.want)
		}
	}
}

// TestBounds holds the formulas of docs/limits.md: a guest can keep the limit that it was made for, and a bound holds it.
func TestBounds(t *testing.T) {
	for _, limit := range []uint64{4 << 20, 16 << 20, 64 << 20, 1 << 30, 64 << 30} {
		ram := RAMFor(limit)
		if ram-ram/64 < limit+guestOverhead-64 || LimitFor(ram) < limit || LimitFor(ram) > ram {
			t.Errorf("%d bytes: RAM %d, which keeps %d", limit, ram, LimitFor(ram))
		}
	}
	spec := Example()
	for _, tt := range []struct{ limit, want int64 }{{0, 0}, {-1, -1}, {16 << 20, 148<<20 + monitorOverhead}} {
		spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &tt.limit}
		if got, err := HostMemory(spec); err != nil || got != tt.want {
			t.Errorf("limit %d: bound %d, %v, want %d", tt.limit, got, err, tt.want)
		}
		if tt.limit <= 0 {
			continue
		}
		spec.Annotations = map[string]string{AnnotationNetwork: "user"}
		if got, err := HostMemory(spec); err != nil || got != tt.want+networkOverhead {
			t.Errorf("limit %d with a network: bound %d, %v", tt.limit, got, err)
		}
		spec.Annotations = nil
	}
	huge := int64(1) << 60
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &huge}
	if ram, err := Memory(spec); err != nil || ram > RAMFor(hostMemory())+pageSize {
		t.Errorf("a limit that no host has: %d, %v", ram, err)
	}
}
