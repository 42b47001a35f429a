package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestTablesAreGenerated(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "tables")
	if out, err := exec.Command("go", "run", "mktables.go", fresh).CombinedOutput(); err != nil {
		t.Fatalf("mktables.go: %v: %s", err, out)
	}
	want, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("tables.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("tables.go is not what golang.org/x/sys says: run go generate")
	}
}

func TestLookup(t *testing.T) {
	for _, tt := range []numbers{
		{"read", 0, x32Bit, 3}, {"waitpid", absent, absent, 7}, {"execve", 59, x32Bit | 520, 11},
		{"mseal", 462, x32Bit | 462, 462}, {"vserver", 236, absent, 273}, {"accept", 43, x32Bit | 43, absent},
		{"clock_gettime64", absent, absent, 403}, {"map_shadow_stack", 453, x32Bit | 453, 453},
	} {
		if got, ok := lookup(tt.name); !ok || got != tt {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, ok, tt)
		}
	}
	if got, ok := lookup("no_such_call"); ok {
		t.Errorf("no_such_call: %+v", got)
	}
}

func number(n uint) *uint { return &n }

// profileOf is a profile whose default is ERRNO(EPERM) for all three architectures.
func profileOf(calls ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:      calls,
	}
}

func TestCompileRefuses(t *testing.T) {
	allow := func(edit func(*specs.LinuxSyscall)) *specs.LinuxSeccomp {
		call := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow}
		edit(&call)
		return profileOf(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActAllow}, call)
	}
	arg := func(a ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return allow(func(c *specs.LinuxSyscall) { c.Args = a })
	}
	same := []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: 1}}
	for _, tt := range []struct {
		want    string
		profile *specs.LinuxSeccomp
	}{
		{`linux.seccomp.defaultAction: unknown action ""`, &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{}}}},
		{`linux.seccomp.defaultAction: unknown action "SCMP_ACT_FOO"`, &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_FOO"}},
		{"linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is not supported", &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}},
		{"linux.seccomp.defaultAction: errno 65536 does not fit", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: number(65536)}},
		{"linux.seccomp.syscalls[1].action: SCMP_ACT_NOTIFY is not supported", allow(func(c *specs.LinuxSyscall) { c.Action = specs.ActNotify })},
		{`linux.seccomp.syscalls[1].action: unknown action "ALLOW"`, allow(func(c *specs.LinuxSyscall) { c.Action = "ALLOW" })},
		{"linux.seccomp.syscalls[1].names[1] is empty", allow(func(c *specs.LinuxSyscall) { c.Names = []string{"read", ""} })},
		{"linux.seccomp.syscalls[1].args[0].index is 6", arg(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo})},
		{`linux.seccomp.syscalls[1].args[1].op: unknown operator "=="`, arg(specs.LinuxSeccompArg{Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 1, Op: "=="})},
		{`linux.seccomp.architectures: unknown architecture "x86"`, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"x86"}}},
		{`linux.seccomp.flags: unknown flag "LOG"`, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"LOG"}}},
		{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is only for SCMP_ACT_NOTIFY", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}},
		{"linux.seccomp.listenerPath", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/listener"}},
		{"listenerMetadata", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "x"}},
		{"two rules for read give different actions under the same conditions", profileOf(
			specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: same},
			specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog, Args: same})},
	} {
		got, err := Compile(tt.profile)
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(got.Filter) != 0 {
			t.Errorf("want an error with %q, got %v", tt.want, err)
		}
	}
}

// TestRepeatedRules shows that what is said again costs nothing: one instruction more for each would not fit.
func TestRepeatedRules(t *testing.T) {
	call := specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: 1}}}
	once, err := Compile(profileOf(call))
	if err != nil {
		t.Fatal(err)
	}
	often, err := Compile(profileOf(slices.Repeat([]specs.LinuxSyscall{call}, 5000)...))
	if err != nil || !slices.Equal(often.Filter, once.Filter) {
		t.Errorf("%d instructions, %v, %d for one rule", len(often.Filter), err, len(once.Filter))
	}
}

func TestTooManyRules(t *testing.T) {
	p := profileOf()
	for i := range 1000 {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: uint64(i)}}})
	}
	if _, err := Compile(p); err == nil || !strings.Contains(err.Error(), "the kernel takes 4096") {
		t.Errorf("error %v", err)
	}
}

func TestDisabled(t *testing.T) {
	for _, p := range []*specs.LinuxSeccomp{nil, {}, {Architectures: []specs.Arch{"whatever"}}} {
		if got, err := Compile(p); err != nil || len(got.Filter) != 0 {
			t.Errorf("%+v: %d instructions, %v", p, len(got.Filter), err)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		flags []specs.LinuxSeccompFlag
		want  uint32
	}{
		{nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{}, 0},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}, 0},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}, unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
	} {
		got, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: tt.flags})
		if err != nil || got.Flags != tt.want {
			t.Errorf("%v: flags %#x, %v, want %#x", tt.flags, got.Flags, err, tt.want)
		}
	}
	supported, known := Flags()
	for _, name := range supported {
		if _, ok := flags[specs.LinuxSeccompFlag(name)]; !ok || !slices.Contains(known, name) {
			t.Errorf("%s is listed as supported", name)
		}
	}
	if len(supported) != len(flags) {
		t.Errorf("listed as supported: %v", supported)
	}
}

// TestActions pins what each kind of rule makes of system calls that were chosen by hand.
func TestActions(t *testing.T) {
	const (
		amd64, i386 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
		allow       = unix.SECCOMP_RET_ALLOW
		kill        = unix.SECCOMP_RET_KILL_THREAD
		eperm       = unix.SECCOMP_RET_ERRNO | 1
		enosys      = unix.SECCOMP_RET_ERRNO | 38
	)
	one := func(name string, args ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return profileOf(
			specs.LinuxSyscall{Names: []string{"no_such_call", "openat2"}, Action: specs.ActAllow},
			specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
	}
	narrowed := one("read")
	narrowed.Architectures = nil
	open := one("read")
	open.DefaultAction, open.DefaultErrnoRet = specs.ActTrace, number(7)
	const big = 0x1_0000_0005
	for _, tt := range []struct {
		name    string
		profile *specs.LinuxSeccomp
		data    data
		want    uint32
	}{
		{"rule", one("read"), data{nr: 0, arch: amd64}, allow},
		{"default", one("read"), data{nr: 1, arch: amd64}, eperm},
		{"i386", one("read"), data{nr: 3, arch: i386}, allow},
		{"x32", one("read"), data{nr: x32Bit, arch: amd64}, allow},
		{"x32's own number", one("ioctl"), data{nr: x32Bit | 514, arch: amd64}, allow},
		{"above x32's own", one("ioctl"), data{nr: x32Bit | 515, arch: amd64}, enosys},
		{"last known", one("read"), data{nr: 437, arch: amd64}, allow},
		{"newer", one("read"), data{nr: 438, arch: amd64}, enosys},
		{"newer x32", one("read"), data{nr: x32Bit | 438, arch: amd64}, enosys},
		{"newer i386", one("read"), data{nr: 438, arch: i386}, enosys},
		{"newer, default not to refuse", open, data{nr: 438, arch: amd64}, unix.SECCOMP_RET_TRACE | 7},
		{"other architecture", one("read"), data{nr: 0, arch: unix.AUDIT_ARCH_AARCH64}, kill},
		{"i386 unnamed", narrowed, data{nr: 3, arch: i386}, kill},
		{"x32 unnamed", narrowed, data{nr: x32Bit, arch: amd64}, kill},
		{"skipped by a tracer", narrowed, data{nr: ^uint32(0), arch: amd64}, eperm},
		{"all 64 bits", one("read", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: big}), data{nr: 0, arch: amd64, args: [6]uint64{5}}, eperm},
		{"all 64 bits hold", one("read", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: big}), data{nr: 0, arch: amd64, args: [6]uint64{big}}, allow},
		{"32 of i386", one("read", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: big}), data{nr: 3, arch: i386, args: [6]uint64{5}}, allow},
		{"32 of x32", one("read", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: 5}), data{nr: x32Bit, arch: amd64, args: [6]uint64{big}}, allow},
		{"socketcall", one("socket", specs.LinuxSeccompArg{Op: specs.OpNotEqual, Value: 40}), data{nr: i386Socketcall, arch: i386, args: [6]uint64{1}}, allow},
		{"another socketcall", one("socket"), data{nr: i386Socketcall, arch: i386, args: [6]uint64{2}}, eperm},
		{"direct socket", one("socket", specs.LinuxSeccompArg{Op: specs.OpNotEqual, Value: 40}), data{nr: 359, arch: i386, args: [6]uint64{40}}, eperm},
		{"ipc", one("shmat"), data{nr: i386IPC, arch: i386, args: [6]uint64{21}}, allow},
		{"repeated argument", one("read", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: 1}, specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: 2}), data{arch: amd64, args: [6]uint64{2}}, allow},
		{"two arguments", one("read", specs.LinuxSeccompArg{Index: 2, Op: specs.OpEqualTo, Value: 1}, specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: 2}), data{arch: amd64, args: [6]uint64{2, 0, 0}}, eperm},
	} {
		got, err := Compile(tt.profile)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if action, _, err := execute(got.Filter, &tt.data); err != nil || action != tt.want {
			t.Errorf("%s: %#x, %v, want %#x", tt.name, action, err, tt.want)
		}
	}
}

// TestOperators tries each operator around the places where a comparison by halves can go wrong.
func TestOperators(t *testing.T) {
	values := []uint64{0, 1, 5, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 5, 2<<32 - 1, 2 << 32, 1<<63 - 1, 1 << 63, ^uint64(0)}
	for _, op := range operators {
		for _, value := range values {
			p := profileOf(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 3, Op: op, Value: value, ValueTwo: 1<<32 + 5}}})
			got, err := Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range values {
				for _, d := range []data{{nr: 0, arch: unix.AUDIT_ARCH_X86_64}, {nr: x32Bit, arch: unix.AUDIT_ARCH_X86_64}, {nr: 3, arch: unix.AUDIT_ARCH_I386}} {
					d.args[3] = x
					agree(t, p, got.Filter, &d)
				}
			}
		}
	}
}

// TestRandomProfiles compares filters with the reference, on system calls that the profile speaks of and others.
func TestRandomProfiles(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	compiled := 0
	for range 3000 {
		p := randomProfile(rnd)
		got, err := Compile(p)
		if err != nil {
			if !strings.Contains(err.Error(), "two rules for") {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue
		}
		compiled++
		for range 200 {
			d := randomData(rnd, p)
			if !agree(t, p, got.Filter, &d) {
				t.Fatalf("seed %d", seed)
			}
		}
	}
	if compiled < 1500 {
		t.Errorf("seed %d: only %d profiles of 3000 were compiled", seed, compiled)
	}
}

// BenchmarkCompile is what a start pays for a profile of the usual size.
func BenchmarkCompile(b *testing.B) {
	p := bigProfile()
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

// TestBigProfile holds the filter of a profile like the engines' small, and its search short.
func TestBigProfile(t *testing.T) {
	p := bigProfile()
	got, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	worst := 0
	for nr := uint32(0); nr < 600; nr++ {
		for _, d := range []data{{nr: nr, arch: unix.AUDIT_ARCH_X86_64}, {nr: nr | x32Bit, arch: unix.AUDIT_ARCH_X86_64}, {nr: nr, arch: unix.AUDIT_ARCH_I386}} {
			agree(t, p, got.Filter, &d)
			_, steps, _ := execute(got.Filter, &d)
			worst = max(worst, steps)
		}
	}
	t.Logf("%d instructions, at most %d for one system call", len(got.Filter), worst)
	if len(got.Filter) > 1024 || worst > 60 {
		t.Errorf("%d instructions, %d of them for one system call", len(got.Filter), worst)
	}
}

// FuzzCompile takes a profile as it stands in config.json and the numbers of a system call.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["clone","read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}]}]}`),
		uint32(56), uint8(0), uint64(1), uint64(2), uint64(3))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_TRAP","flags":[],"syscalls":[{"names":["socket"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":5,"op":"SCMP_CMP_LE"},{"index":2,"value":9,"op":"SCMP_CMP_NE"},{"index":0,"value":7,"op":"SCMP_CMP_GT"}]}]}`),
		uint32(41), uint8(0), uint64(6), uint64(2), uint64(8))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_KILL","architectures":["SCMP_ARCH_X32"],"syscalls":[{"names":["ioctl","recv"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"args":[{"index":1,"value":4294967296,"valueTwo":9,"op":"SCMP_CMP_MASKED_EQ"}]}]}`),
		uint32(16), uint8(1), uint64(0), uint64(1<<32), uint64(0))
	f.Fuzz(func(t *testing.T, config []byte, nr uint32, arch uint8, a, b, c uint64) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(config, &p) != nil {
			return
		}
		got, err := Compile(&p)
		if err != nil || len(got.Filter) == 0 {
			return
		}
		if len(got.Filter) > unix.BPF_MAXINSNS {
			t.Fatalf("%d instructions", len(got.Filter))
		}
		archs := []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM}
		agree(t, &p, got.Filter, &data{nr: nr, arch: archs[int(arch)%len(archs)], args: [6]uint64{a, b, c, a, b, c}})
	})
}
