package e2e

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestMountsBelowVolumes: a recursive volume brings the mounts below it along, each a file system of its own in the guest; another hides
// them; and a control file system among them stays closed. Contract: E3, E5, I2.
func TestMountsBelowVolumes(t *testing.T) {
	r := newRuntime(t)
	volume, err := os.MkdirTemp(r.dir, "volume-")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"one": "tmpfs", "two": "tmpfs", "proc": "proc"} {
		dir := filepath.Join(volume, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		if kind == "tmpfs" {
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte(name+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Inode numbers of the two are equal on the host, as are those of all fresh tmpfs.
	script := `cat /r/one/f /r/two/f
test "$(stat -c %i /r/one/f)" = "$(stat -c %i /r/two/f)" && test "$(stat -c %d /r/one/f)" != "$(stat -c %d /r/two/f)" && echo apart
ls /s/one /s/two
ls /r/proc 2>/dev/null || echo closed
echo written > /r/one/g`
	bundle := r.bundle(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/r", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}},
			specs.Mount{Destination: "/s", Type: "bind", Source: volume, Options: []string{"bind", "rw"}})
	}, "/bin/sh", "-c", script)
	r.run("run", "--bundle", bundle, r.id()).want(t, 0, "one\ntwo\napart\n/s/one:\n\n/s/two:\nclosed\n", "")
	if got, err := os.ReadFile(filepath.Join(volume, "one/g")); string(got) != "written\n" {
		t.Errorf("written in the guest: %q, %v", got, err)
	}
}

// TestFileRequests: a write is one request to the host, in the root file system, and reading ahead has large ones. A request's answer is an interrupt.
func TestFileRequests(t *testing.T) {
	r := newRuntime(t)
	script := `count() { busybox awk '/virtio/ { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n }' /proc/interrupts; }
cat /sys/class/bdi/0:$(stat -c %d /)/read_ahead_kb
a=$(count); busybox dd if=/dev/zero of=/f bs=4096 count=1000 2>/dev/null; b=$(count)
echo "$((b - a)) interrupts for 1000 writes" >&2
[ $((b - a)) -ge 1000 ] && [ $((b - a)) -lt 1500 ] && echo one request a write`
	res := r.run("run", "--bundle", r.bundle(func(s *specs.Spec) { s.Root.Readonly = false }, "/bin/sh", "-c", script), r.id())
	t.Log(res.err)
	if res.status != 0 || res.out != "512\none request a write\n" {
		t.Errorf("%+v", res)
	}
}
