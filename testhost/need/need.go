// Package need ends tests that lack something of their machine. What is missing skips a test, unless the environment
// promises it: GOVMM_REQUIRE lists capabilities, separated by commas, whose absence is a failure. `make test` sets it.
package need

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The capabilities.
const (
	RootUser     = "root"     // to mount, and to make namespaces and cgroups
	FUSE         = "fuse"     // /dev/fuse
	TUN          = "tun"      // /dev/net/tun
	KVM          = "kvm"      // /dev/kvm, be it one that only emulates kernel code
	VM           = "vm"       // KVM that runs guest kernels, and what scripts/test makes for their tests
	TestHost     = "testhost" // the machine of testhost
	Cgroup1      = "cgroup1"  // the hierarchies memory and cpu of cgroup version 1
	Cgroup2      = "cgroup2"  // a writable cgroup v2 with the controllers memory and pids
	Programs     = "programs" // what scripts/test installs, and scripts/engines for its own tests
	Engines      = "engines"  // podman, containerd and docker, and the time that their tables take: CI and scripts/engines
	Networks     = "networks" // what these engines make networks with, netavark, aardvark-dns and iptables: CI and scripts/engines
	Lintian      = "lintian"  // Debian's judge of packages: scripts/engines
	Newer        = "newer"    // what testhost/engines builds, from the Go module proxy and in minutes: scripts/engines
	DirtyRing    = "dirty-ring"
	TSCOffset    = "tsc-offset"
	HugePages    = "huge-pages" // transparent ones
	BareKernel   = "kernel-bare"
	DebianKernel = "kernel-debian"
)

// Required reports whether GOVMM_REQUIRE lists the capability.
func Required(capability string) bool {
	return slices.Contains(strings.Split(os.Getenv("GOVMM_REQUIRE"), ","), capability)
}

// Lacking ends the test for want of the capability, for the reason given.
func Lacking(t testing.TB, capability, reason string, args ...any) {
	t.Helper()
	if Required(capability) {
		t.Fatalf("GOVMM_REQUIRE has "+capability+": "+reason, args...)
	}
	t.Skipf("needs "+reason, args...)
}

// Promised ends the test where nobody promises the capability, which is not looked for on the machine: it may be there and take an
// hour. Where it is promised, the test goes on, and fails for what it misses.
func Promised(t testing.TB, capability, reason string) {
	t.Helper()
	if !Required(capability) {
		t.Skipf("GOVMM_REQUIRE does not promise %s: %s", capability, reason)
	}
}

// GuestKernels ends the test where nobody promises KVM that runs guest kernels.
func GuestKernels(t testing.TB) {
	t.Helper()
	Promised(t, VM, "run `make test`, which uses the test host where this machine's KVM cannot run guest kernels")
}

// Root ends the test of anybody but root.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Lacking(t, RootUser, "root")
	}
}

// TAP ends the test where no TAP interface can be made, in a network namespace of the test's own.
func TAP(t testing.TB) {
	t.Helper()
	Root(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		Lacking(t, TUN, "/dev/net/tun")
	}
}

// Program returns the path of a program, which the Debian package installs.
func Program(t testing.TB, name, deb string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacking(t, Programs, "%s: apt-get install %s", name, deb)
	}
	return path
}
