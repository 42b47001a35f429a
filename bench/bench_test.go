package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		in   []int64
		want Summary
	}{
		{nil, Summary{}},
		{[]int64{7}, Summary{7, 7, 7}},
		{[]int64{3, 1, 2}, Summary{1, 2, 3}},
		{[]int64{40, 10, 30, 20}, Summary{10, 30, 40}},
	} {
		in := append([]int64(nil), c.in...)
		if got := summarize(c.in); got != c.want {
			t.Errorf("summarize(%v) = %v, want %v", in, got, c.want)
		}
		if diff := cmp.Diff(in, c.in); diff != "" {
			t.Errorf("the samples are kept as they came, but were sorted: %s", diff)
		}
	}
}

func TestParsePhases(t *testing.T) {
	got := parsePhases("\nphase  ms  at ms\ncli  1.0  1.0\nphase begin 1050\nphase cli 1100\nphase soon x\nphase early 900\nnot a phase 1\nphase exit 1500", 1000)
	want := []Phase{{"begin", 50}, {"cli", 100}, {"exit", 500}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
}

func TestAwaitHello(t *testing.T) {
	seen := 0
	if at := awaitHello(strings.NewReader("[    0.1] HELL\nHELLO FROM GUEST INIT\nHELLO again\n"), time.Now().Add(-time.Second), func() { seen++ }); at < 1e9 || seen != 1 {
		t.Errorf("HELLO at %d ns, seen %d times", at, seen)
	}
	if at := awaitHello(strings.NewReader("nothing"), time.Now(), func() { seen++ }); at != 0 || seen != 1 {
		t.Errorf("HELLO at %d ns where there is none", at)
	}
}

// trace is what the host's kernel wrote, shortened.
const trace = `# tracer: nop
#
            qemu-149     [000] d..1.     4.000100: kvm_entry: vcpu 0, rip 0xffffffff817646f1
            qemu-149     [000] .....     4.000200: kvm_exit: vcpu 0 reason hlt rip 0x1 info1 0x0
          <...>-140     [000] .....     4.001000: tracing_mark_write: bench: fork
            exe-149     [000] d..1.     4.002000: kvm_entry: vcpu 0, rip 0xffffffff817646f1
            exe-149     [000] .N...     4.002500: kvm_exit: vcpu 0 reason interrupt rip 0xffffffff817646f1 info1 0x0
            exe-149     [000] d..1.     4.003000: kvm_entry: vcpu 0, rip 0xffffffff817646f1
            exe-150     [000] d..1.     4.003100: kvm_entry: vcpu 1, rip 0xffffffff817646f1
            exe-149     [000] .....     4.003200: kvm_exit: vcpu 0 reason io rip 0x10
            exe-149     [000] .....     4.003210: kvm_userspace_exit: reason KVM_EXIT_IO (2)
            exe-150     [000] .....     4.003400: kvm_exit: vcpu 1 reason npf rip 0x10
            exe-150     [000] .....     4.003500: kvm_exit: vcpu 1 reason npf rip 0x10
          bench-140     [000] .....     4.004000: tracing_mark_write: bench: HELLO
            exe-149     [000] d..1.     4.005000: kvm_entry: vcpu 0, rip 0x1
            exe-149     [000] .....     4.006000: kvm_exit: vcpu 0 reason hlt rip 0x10
`

func TestParseTrace(t *testing.T) {
	got, err := parseTrace(trace)
	if err != nil {
		t.Fatal(err)
	}
	want := &Guest{Inside: 1_000_000, Exits: map[string]int{"interrupt": 1, "io": 1, "npf": 2}, User: map[string]int{"IO": 1}}
	// Microseconds as floating point: a nanosecond of rounding each.
	if d := got.Inside - want.Inside; d < -10 || d > 10 {
		t.Errorf("%d ns in guest mode, want %d", got.Inside, want.Inside)
	}
	got.Inside = want.Inside
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
	for _, lost := range []string{"", strings.Replace(trace, markEnd, "bench: BYE", 1), strings.Replace(trace, markBegin, "", 1)} {
		if g, err := parseTrace(lost); err == nil {
			t.Errorf("%+v of a trace that lacks a mark", g)
		}
	}
}

func TestParseLdd(t *testing.T) {
	got := parseLdd("\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n")
	if diff := cmp.Diff([]string{"/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}, got); diff != "" {
		t.Errorf("libraries (-want +got):\n%s", diff)
	}
}

const smaps = `00400000-00800000 r-xp 00000000 00:21 77 /bin/govmm-run
Size:               4096 kB
Rss:                4000 kB
Pss:                2000 kB
c000000000-c004000000 ---p 00000000 00:00 0
Size:            1048576 kB
Pss:                   0 kB
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:               50000 kB
Pss:               40000 kB
VmFlags: rd wr
`

func TestParseSmaps(t *testing.T) {
	got, err := parseSmaps(smaps)
	if want := (Memory{PSS: 42000, GuestRAM: 40000, GuestSize: 262144}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if m, err := parseSmaps(""); err == nil {
		t.Errorf("%+v of a process that has ended", m)
	}
}

// result is a small one with every part.
func result() *Result {
	phases := []Phase{{"begin", 2e6}, {"cli", 10e6}, {"kernel", 60e6}, {"process", 99e6}}
	return &Result{
		Clock: clockInstructions, Meta: Meta{Commit: "abc", Tools: map[string]string{"runc": "runc <1>"}},
		Subjects: []Subject{
			{Group: "a", Name: nameBoot, Samples: []Sample{{Hello: 80e6, Exit: 90e6}}, Guest: &Guest{Inside: 60e6, Exits: map[string]int{"io & <x>": 3}}},
			{Group: "b", Name: nameRun, Repeats: 2, Samples: []Sample{
				{Hello: 98e6, Exit: 110e6, Phases: phases}, {Hello: 97e6, Exit: 200e6}, {Hello: 99e6, Exit: 105e6},
			}},
			{Group: "b", Name: "crun", Error: "not here"},
		},
		Memory: Memory{PSS: 42 << 10, GuestRAM: 40 << 10, GuestSize: 256 << 10},
	}
}

func TestVerdicts(t *testing.T) {
	var got []string
	for _, v := range result().verdicts() {
		got = append(got, strings.ReplaceAll(strings.TrimSpace(v.String()), "\t", "|"))
	}
	want := []string{
		"govmm boot, bare guest, to HELLO|80.0 M|at most 79|MISSED",
		"of which not in guest mode|20.0 M|at most 27|met",
		"govmm-run run, busybox, to HELLO|98.0 M|at most 100|met",
		"from HELLO to exit, in percent of that|12.2 %|at most 15|met",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if v := (&Result{Subjects: []Subject{{Name: nameBoot, Error: "failed"}}}).verdicts(); len(v) != 0 {
		t.Errorf("verdicts without a figure: %v", v)
	}
}

func TestTypicalRun(t *testing.T) {
	r := result()
	s := r.subject(nameRun).typical()
	if s == nil || s.Hello != 98e6 {
		t.Fatalf("the typical run is %+v", s)
	}
	spans := s.spans()
	if last := spans[len(spans)-1]; last.end != s.Exit || spans[0].begin != 0 {
		t.Errorf("the spans run from %d to %d, not from the fork to the exit", spans[0].begin, last.end)
	}
	for i := 1; i < len(spans); i++ {
		if spans[i].begin != spans[i-1].end {
			t.Errorf("%s begins at %d, the phase before it ends at %d", spans[i].name, spans[i].begin, spans[i-1].end)
		}
	}
	if s := r.subject("crun").typical(); s != nil {
		t.Errorf("a typical run of a tool that failed: %+v", s)
	}
}

func TestTables(t *testing.T) {
	var out strings.Builder
	if err := result().print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"millions of instructions", "runc: runc <1>", "MISSED", "crun       failed: not here", "98.0      97.0..99.0",
		"  kernel", "io & <x>", "2.0\n", "which came at 98.0",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestTimeline draws the picture and reads it back: it is well-formed, has a bar for every phase, and stays on the page.
func TestTimeline(t *testing.T) {
	picture := result().timeline()
	d := xml.NewDecoder(strings.NewReader(picture))
	titles := map[string]bool{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		if text, ok := token.(xml.CharData); ok {
			titles[strings.TrimSpace(string(text))] = true
		}
	}
	for _, want := range []string{
		"kernel: " + phaseMeaning["kernel"], "gone: " + phaseMeaning["gone"], "govmm boot to HELLO: 80.0", "io & <x>: 3", "HELLO 98.0",
	} {
		if !titles[want] {
			t.Errorf("the picture lacks %q", want)
		}
	}
	if empty := (&Result{}).timeline(); !strings.HasSuffix(empty, "</svg>\n") {
		t.Errorf("nothing measured gives %q", empty)
	}
}
