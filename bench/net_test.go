package main

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the host's kernel writes of histograms, shortened.
var histogramTexts = map[string]string{
	"kvm/kvm_exit": "# event histogram\n#\n# trigger info: hist:keys=exit_reason:vals=hitcount:sort=hitcount:size=4096 [paused]\n#\n\n" +
		"{ exit_reason:         96 } hitcount:         12\n{ exit_reason:       1024 } hitcount:        300\n\nTotals:\n    Hits: 312\n    Entries: 2\n",
	"kvm/kvm_userspace_exit": "{ reason:          6 } hitcount:        201\n",
	"kvm/kvm_mmio": "{ type:          2, gpa: 4276093008 } hitcount:        100\n{ type:          1, gpa: 4276093024 } hitcount:        101\n" +
		"{ type:          2, gpa: 4276093028 } hitcount:        101\n{ type:          2, gpa: 3489665104 } hitcount:          7\n",
	"kvm/kvm_set_irq":        "{ level:          0 } hitcount:        101\n{ level:          1 } hitcount:        101\n",
	"raw_syscalls/sys_enter": "{ common_pid:        140, id:         16 } hitcount:        312\n{ common_pid:        141, id:         20 } hitcount:         55\n{ common_pid:          9, id:          1 } hitcount:          5\n",
}

func TestCounts(t *testing.T) {
	found := map[string][]bin{}
	for event, text := range histogramTexts {
		found[event] = parseHistogram(text)
	}
	got := count(found, map[string]bool{"140": true, "141": true, "142": true})
	want := &Counts{
		Exits: map[string]int64{"96": 12, "1024": 300}, User: 201, Kicks: 107, MMIO: 309, IRQs: 101, Syscalls: map[string]int64{"16": 312, "20": 55},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// netResult is a small one: of two loads, one of them with a subject that failed.
func netResult() *NetResult {
	sample := func(load string, units, busy, exits int64) NetSample {
		return NetSample{Load: load, Unit: "round trip", Units: units, Elapsed: 5e6, Busy: busy, Packets: 2 * units,
			Counts: Counts{Exits: map[string]int64{"96": exits}, Syscalls: map[string]int64{"16": exits}}}
	}
	return &NetResult{Clock: clockInstructions, Subjects: []NetSubject{
		{Name: netOurs, Samples: []NetSample{sample("a", 10, 5000, 50), sample("a", 10, 9000, 30), sample("a", 10, 7000, 40), sample("b", 5, 100, 1)}},
		{Name: netPeer, Samples: []NetSample{sample("a", 20, 15000, 60)}},
		{Name: "runc", Error: "not here"},
	}}
}

func TestNetTables(t *testing.T) {
	var out strings.Builder
	if err := netResult().print(&out); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"runc failed: not here",
		"a, for each round trip ms in all units frames instructions exits to the monitor kicks registers interrupts system calls",
		"govmm boot 5 10 2.000 700.0 4.000 0.000 0.000 0.000 0.000 4.000",
		"a: instructions 700.0 750.0 met", "a: exits 4.000 3.000 MISSED", "a: kicks 0.000 0.000 met",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	if strings.Contains(out.String(), "b: exits") {
		t.Error("a verdict on a load that the peer did not have")
	}
}

// TestLoads runs the client of each load of our own against the server.
func TestLoads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = takePart(c)
			}()
		}
	}()
	for _, kind := range []rune{loadRoundTrips, loadIn, loadOut, loadPlainRoundTrips, loadPlainIn, loadPlainOut} {
		var out strings.Builder
		if err := runClient(&out, string(kind), l.Addr().String(), 1000); err != nil || out.String() != "1000\n" {
			t.Errorf("load %c: %v, %q", kind, err, out.String())
		}
	}
	if err := runClient(&strings.Builder{}, "", l.Addr().String(), 1); err == nil {
		t.Error("a load without a name")
	}
}
