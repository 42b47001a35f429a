package oci

import (
	"encoding/json"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/compact"
)

func TestSeccompReachesEveryProcess(t *testing.T) {
	spec, err := Load(bundle(t, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	created, err := Guest("id", spec)
	if err != nil {
		t.Fatal(err)
	}
	executed, err := GuestProcess(&specs.Process{Args: []string{"true"}, Cwd: "/"}, spec.Linux)
	if err != nil {
		t.Fatal(err)
	}
	if len(created.Process.Seccomp.Filter) == 0 || !reflect.DeepEqual(created.Process.Seccomp, executed.Seccomp) {
		t.Errorf("create: %+v\nexec: %+v", created.Process.Seccomp, executed.Seccomp)
	}
}

// TestSeccompFlags sends profiles the way that the monitor gets them.
func TestSeccompFlags(t *testing.T) {
	for _, tt := range []struct {
		flags string
		want  uint32
	}{
		{`{"defaultAction": "SCMP_ACT_ALLOW"}`, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}`, 0},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}`, unix.SECCOMP_FILTER_FLAG_LOG},
	} {
		spec := Example()
		if err := json.Unmarshal([]byte(tt.flags), &spec.Linux.Seccomp); err != nil {
			t.Fatal(err)
		}
		b, err := compact.Append(nil, spec)
		if err != nil {
			t.Fatal(err)
		}
		var sent specs.Spec
		if err := compact.Read(b, &sent); err != nil {
			t.Fatal(err)
		}
		p, err := GuestProcess(sent.Process, sent.Linux)
		if err != nil || p.Seccomp.Flags != tt.want {
			t.Errorf("%s: flags %#x, %v, want %#x", tt.flags, p.Seccomp.Flags, err, tt.want)
		}
	}
}

// TestSeccompFeatures pins what engines may look for, in the order and wording of runc's features.
func TestSeccompFeatures(t *testing.T) {
	b, err := json.Marshal(Features().Linux.Seccomp)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"enabled":true,` +
		`"actions":["SCMP_ACT_ALLOW","SCMP_ACT_ERRNO","SCMP_ACT_KILL","SCMP_ACT_KILL_PROCESS","SCMP_ACT_KILL_THREAD","SCMP_ACT_LOG","SCMP_ACT_TRACE","SCMP_ACT_TRAP"],` +
		`"operators":["SCMP_CMP_EQ","SCMP_CMP_GE","SCMP_CMP_GT","SCMP_CMP_LE","SCMP_CMP_LT","SCMP_CMP_MASKED_EQ","SCMP_CMP_NE"],` +
		`"archs":["SCMP_ARCH_AARCH64","SCMP_ARCH_ARM","SCMP_ARCH_LOONGARCH64","SCMP_ARCH_MIPS","SCMP_ARCH_MIPS64","SCMP_ARCH_MIPS64N32","SCMP_ARCH_MIPSEL","SCMP_ARCH_MIPSEL64","SCMP_ARCH_MIPSEL64N32",` +
		`"SCMP_ARCH_PPC","SCMP_ARCH_PPC64","SCMP_ARCH_PPC64LE","SCMP_ARCH_RISCV64","SCMP_ARCH_S390","SCMP_ARCH_S390X","SCMP_ARCH_X32","SCMP_ARCH_X86","SCMP_ARCH_X86_64"],` +
		`"knownFlags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],` +
		`"supportedFlags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_LOG"]}`
	if string(b) != want {
		t.Errorf("features:\n%s\nwant:\n%s", b, want)
	}
}
