package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// knownFailures are the tests of posixtest that fail in the guest, each with its reason.
var knownFailures = map[string]string{
	"FcntlFlockLocksFile": "wants two POSIX locks of one process to conflict, which POSIX excludes; fails on the host's ext4 as well",
}

// TestGuestPOSIX is go-fuse's conformance suite, for the directory that the environment names.
func TestGuestPOSIX(t *testing.T) {
	dir := inGuest(t)
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			mnt, err := os.MkdirTemp(dir, name)
			if err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, mnt)
		})
	}
}

// withVolume runs the test binary in a container, with a volume of the host at /volume.
func withVolume(volume, dir string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_MKNOD", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Process.Env = append(s.Process.Env, guestEnv+"="+dir, "TMPDIR="+dir)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}})
	}
}

// withoutPasswd hides the guest's /etc/passwd: OpenSymlinkRace takes a /etc/passwd on the tested file system's device for
// a symbolic link that the server has followed. Without the guest's own, only the host's could be there.
func withoutPasswd(volume, dir string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		withVolume(volume, dir)(s)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs"})
	}
}

var subtest = regexp.MustCompile(`(?m)^    --- (PASS|FAIL|SKIP): TestGuestPOSIX/(\S+)`)

// TestPOSIX runs go-fuse's suite on the root file system and on a volume, both over virtio-fs.
func TestPOSIX(t *testing.T) {
	r := newRuntime(t)
	for _, dir := range []string{"/tmp", "/volume"} {
		t.Run(dir[1:], func(t *testing.T) {
			volume, err := os.MkdirTemp(r.dir, "volume-")
			if err != nil {
				t.Fatal(err)
			}
			args, total := []string{"/e2e.test", "-test.v", "-test.run", "^TestGuestPOSIX$", "-test.timeout", "4m"}, len(posixtest.All)
			bundle := r.bundle(withoutPasswd(volume, dir), args...)
			copySelf(t, filepath.Join(bundle, "rootfs"))
			if os.Getenv("GOVMM_TESTHOST") != "" {
				// The emulated host dies or stands still in it. hostfs runs it over /dev/fuse all the same.
				args = append(args, "-test.skip", "/OpenSymlinkRace$")
				total--
			}
			r.configure(bundle, withoutPasswd(volume, dir), args...)
			res := r.run("run", "--bundle", bundle, r.id())
			count := map[string]int{}
			for _, m := range subtest.FindAllStringSubmatch(res.out, -1) {
				count[m[1]]++
				reason, known := knownFailures[m[2]]
				switch {
				case m[1] == "FAIL" && known:
					t.Logf("%s fails as known: %s", m[2], reason)
				case m[1] == "FAIL":
					t.Errorf("%s fails", m[2])
				case m[1] == "PASS" && known:
					t.Errorf("%s passes, but is listed as a known failure: %s", m[2], reason)
				}
			}
			t.Logf("posixtest on %s: %d passed, %d failed, %d skipped of %d", dir, count["PASS"], count["FAIL"], count["SKIP"], total)
			if ran := count["PASS"] + count["FAIL"] + count["SKIP"]; ran != total || t.Failed() {
				t.Errorf("%d of %d tests reported, status %d\n%s\n%s", ran, total, res.status, tail(res.out), tail(res.err))
			}
		})
	}
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-80):], "\n")
}
