package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// loopDevice makes a block device of the host from a file of the given size, and returns its path and numbers.
func loopDevice(t *testing.T, file string, size int64) (path string, major, minor int64) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	losetup := need.Program(t, "losetup", "mount")
	out, err := exec.Command(losetup, "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return path, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
}

// TestBlockDevices gives a container two of the host's block devices, one of them only to read, under names of its own, and
// compares what it can do with runc.
func TestBlockDevices(t *testing.T) {
	r := newRuntime(t)
	const size = 8 << 20
	image := filepath.Join(r.dir, "image")
	data, major, minor := loopDevice(t, image, size)
	seed, seedMajor, seedMinor := loopDevice(t, filepath.Join(r.dir, "seed"), size)
	if err := os.WriteFile(seed, []byte("sown\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mode, group := os.FileMode(0o640), uint32(7)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/disk/data", Type: "b", Major: major, Minor: minor, FileMode: &mode, GID: &group},
			{Path: "/dev/seed", Type: "b", Major: seedMajor, Minor: seedMinor},
			{Path: "/dev/none", Type: "b", Major: 4000, Minor: 77},
		}
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: "rwm"},
			{Allow: true, Type: "b", Major: &seedMajor, Minor: &seedMinor, Access: "r"},
			{Allow: true, Type: "b", Access: "m"},
		}}
	}, "/bin/sh", "-c", `exec 2>&1
stat -c '%n %F %a %u %g' /dev/disk/data /dev/seed /dev/none
head -c 5 /dev/seed
busybox blockdev --getsize64 /dev/disk/data
(echo x >/dev/seed) 2>/dev/null || echo seed: not writable
(head -c 1 /dev/none) 2>/dev/null || echo none: nothing there
busybox mke2fs /dev/disk/data >/dev/null && mkdir -p /tmp/m && mount -t ext2 /dev/disk/data /tmp/m && echo kept >/tmp/m/file && umount /tmp/m && echo unmounted`)
	runc := need.Program(t, "runc", "runc")
	theirs := finish(t, exec.Command(runc, "--root", filepath.Join(r.dir, "runc"), "run", "--bundle", bundle, r.id()), nil)
	if theirs.status != 0 || !strings.HasSuffix(theirs.out, "8388608\nseed: not writable\nnone: nothing there\nunmounted\n") {
		t.Fatalf("runc: status %d\n%s%s", theirs.status, theirs.out, theirs.err)
	}
	if err := os.WriteFile(data, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if ours := r.run("run", "--bundle", bundle, r.id()); ours != theirs {
		t.Errorf("runc: status %d\n%s%s\ngovmm-run: status %d\n%s%s", theirs.status, theirs.out, theirs.err, ours.status, ours.out, ours.err)
	}
	at := filepath.Join(r.dir, "mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(data, at, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("the file system that the container made: %v", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	if b, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("the file that the container wrote: %q, %v", b, err)
	}
}

// TestDeviceRules compares with runc what the rules of linux.resources.devices leave of devices: those that have no driver, where
// what is allowed fails in another way, the kernel's log, and one that every container may use.
func TestDeviceRules(t *testing.T) {
	r := newRuntime(t)
	number := func(n int64) *int64 { return &n }
	bundle := r.bundle(func(s *specs.Spec) {
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_MKNOD", "CAP_SYSLOG")
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: true, Type: "b", Access: "rwm"},
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: number(240), Minor: number(7), Access: "rw"},
			{Allow: true, Type: "c", Major: number(240), Minor: number(8), Access: "r"},
			{Allow: true, Type: "b", Major: number(240), Minor: number(9), Access: "r"},
			{Allow: false, Type: "c", Major: number(1), Minor: number(5), Access: "rwm"},
		}}
	}, "/bin/sh", "-c", `cd /tmp; for d in 'c 240 7' 'c 240 8' 'c 241 7' 'b 240 9' 'b 240 8' 'c 1 5'; do
busybox mknod node $d
for way in '<' '>'; do (eval ": $way node") 2>&1 && echo open; done
rm node; done
(: < /dev/kmsg) 2>&1; (: > /dev/kmsg) 2>&1`)
	runc := need.Program(t, "runc", "runc")
	theirs := finish(t, exec.Command(runc, "--root", filepath.Join(r.dir, "runc"), "run", "--bundle", bundle, r.id()), nil)
	if !strings.Contains(theirs.out, "such device") || !strings.Contains(theirs.out, "not permitted") || !strings.Contains(theirs.out, "open\n") {
		t.Fatalf("runc: status %d\n%s%s", theirs.status, theirs.out, theirs.err)
	}
	if ours := r.run("run", "--bundle", bundle, r.id()); ours != theirs {
		t.Errorf("runc: status %d\n%s%s\ngovmm-run: status %d\n%s%s", theirs.status, theirs.out, theirs.err, ours.status, ours.out, ours.err)
	}
}
