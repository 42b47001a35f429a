package hostprobe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

func TestHostWithoutKVM(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, detail, remedy string }{
		{filepath.Join(dir, "absent"), "no such file or directory", "load the module kvm_amd or kvm_intel"},
		{"/dev/null", "KVM_GET_API_VERSION: inappropriate ioctl for device", "this is not the KVM device"},
		{file, "inappropriate ioctl for device", "this is not the KVM device"},
		{dir, "is a directory", "this is not the KVM device"},
	} {
		got := Host(c.path)
		if len(got) != 1 || got[0].OK() || !strings.Contains(got[0].Detail, c.detail) || !strings.Contains(got[0].Remedy, c.remedy) {
			t.Errorf("Host(%q) = %+v, want one failed check that says %q and %q", c.path, got, c.detail, c.remedy)
		}
	}
}

// TestRateTellsEmulation holds the measured rate against the module that KVM is, which tells what to expect.
func TestRateTellsEmulation(t *testing.T) {
	sys := kvmtest.Open(t)
	rate, err := Rate(sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f million instructions a second", rate/1e6)
	native := false
	for _, m := range []string{"kvm_amd", "kvm_intel"} {
		if _, err := os.Stat("/sys/module/" + m); err == nil {
			native = true
		}
	}
	if (rate >= MinRate) != native {
		t.Errorf("%.1f million instructions a second, and native is %v", rate/1e6, native)
	}
	checks := Host("/dev/kvm")
	last := checks[len(checks)-1]
	if len(checks) != 3 || last.What != "kernel code" || last.OK() != native {
		t.Errorf("Host says %+v, and native is %v", checks, native)
	}
}

// TestMissingCapability asks a real KVM for one that none has.
func TestMissingCapability(t *testing.T) {
	sys := kvmtest.Open(t)
	old := needed
	defer func() { needed = old }()
	needed = append(old[:len(old):len(old)], struct {
		cap  kvm.Cap
		name string
	}{1 << 20, "KVM_CAP_TELEPATHY (reading minds)"})
	c := capabilities(sys)
	if c.OK() || c.Detail != "missing: KVM_CAP_TELEPATHY (reading minds)" || !strings.Contains(c.Remedy, "use Linux 5.15 or later") {
		t.Errorf("capabilities says %+v", c)
	}
}
