package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// tmpfs has a big tmpfs at /big, which a guest's memory backs.
func tmpfs(s *specs.Spec) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/big", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=3g"}})
}

// residentMiB is how much memory the process has from the host.
func residentMiB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n >> 10
		}
	}
	t.Fatalf("no VmRSS in %s", b)
	return 0
}

// TestMemoryGrows: a container without a limit uses more than its guest starts with, and what it frees the host gets back.
func TestMemoryGrows(t *testing.T) {
	r := newRuntime(t)
	script := `grep MemTotal /proc/meminfo
cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.high
dd if=/dev/zero of=/big/x bs=1M count=1200 2>/dev/null && echo filled $?
grep MemTotal /proc/meminfo
read line
rm /big/x
echo removed
read line`
	bundle := r.bundle(tmpfs, "sh", "-c", script)
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.command("run", "--bundle", bundle, "--pid-file", bundle+"/pid", "grow")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	defer cmd.Wait()
	defer stdin.Close()
	watchdog := time.AfterFunc(2*time.Minute, func() { stdout.Close() })
	defer watchdog.Stop()
	lines := bufio.NewReader(stdout)
	line := func() string {
		t.Helper()
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", s, err)
		}
		return strings.Join(strings.Fields(s), " ")
	}
	kib := func(s string) (n int) {
		t.Helper()
		if _, err := fmt.Sscanf(s, "MemTotal: %d kB", &n); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return n
	}
	before := kib(line())
	if got := line() + " " + line(); got != "max max" {
		t.Errorf("memory.max and memory.high are %s", got)
	}
	if got := line(); got != "filled 0" {
		t.Fatalf("got %q", got)
	}
	if after := kib(line()); before > 512<<10 || after < 1200<<10 {
		t.Errorf("MemTotal was %d kB, is %d kB", before, after)
	}
	b, err := os.ReadFile(bundle + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	full := residentMiB(t, pid)
	if full < 1200 {
		t.Errorf("the monitor has %d MiB with 1200 MiB in a tmpfs", full)
	}
	_, _ = io.WriteString(stdin, "go on\n")
	if got := line(); got != "removed" {
		t.Fatalf("got %q", got)
	}
	// Linux reports free pages every two seconds.
	begin := time.Now()
	for residentMiB(t, pid) > full-1100 {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("the monitor has %d MiB of %d, %v after 1200 were freed", residentMiB(t, pid), full, time.Since(begin))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d MiB when full, %d MiB %.1f s after 1200 MiB were freed", full, residentMiB(t, pid), time.Since(begin).Seconds())
	_, _ = io.WriteString(stdin, "go on\n")
}

// TestProgramGrows: a program that takes memory as fast as it can waits for the host, and is not killed.
func TestProgramGrows(t *testing.T) {
	r := newRuntime(t)
	bundle := r.bundle(nil, "awk", `BEGIN { s = "x"; for (i = 0; i < 29; i++) s = s s; print length(s) }`)
	r.run("run", "--bundle", bundle, "burst").want(t, 0, "536870912\n", "")
}

// TestMemoryLimitExact: a limit is memory.max to the byte, its guest has at least as much RAM, and beyond it there is death.
func TestMemoryLimitExact(t *testing.T) {
	r := newRuntime(t)
	for _, mib := range []int{16, 64, 1024, 3000} {
		limit := int64(mib)<<20 + 4096
		limited := func(s *specs.Spec) {
			tmpfs(s)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		}
		bundle := r.bundle(limited, "sh", "-c", "grep MemTotal /proc/meminfo; cat /sys/fs/cgroup/memory.max")
		res := r.run("run", "--bundle", bundle, fmt.Sprint("limit", mib))
		var total, max int64
		if _, err := fmt.Sscanf(res.out, "MemTotal: %d kB\n%d\n", &total, &max); err != nil || res.status != 0 {
			t.Fatalf("%d MiB: %+v: %v", mib, res, err)
		}
		if max != limit || total<<10 < limit {
			t.Errorf("limit %d: memory.max %d, MemTotal %d", limit, max, total<<10)
		}
		if mib > 64 {
			continue
		}
		bundle = r.bundle(limited, "sh", "-c", "exec dd if=/dev/zero of=/big/x bs=1M count=600")
		r.run("run", "--bundle", bundle, fmt.Sprint("beyond", mib)).want(t, 137, "", "")
	}
}

// TestBootGrows: a plain VM whose init is not ours grows when its balloon says that little is left.
func TestBootGrows(t *testing.T) {
	needVM(t)
	dir := scratch(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	const script = `#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs -o size=1g big /big
busybox dd if=/dev/zero of=/big/a bs=1M count=190
while busybox awk '$1 == "MemTotal:" { exit $2 > 400000 }' /proc/meminfo; do busybox sleep 0.1; done
busybox dd if=/dev/zero of=/big/b bs=1M count=200 && echo it grew
busybox reboot -f
`
	pack := exec.Command("sh", "-c", `set -e; mkdir -p proc big bin dev; cp "$0" bin/busybox; find . | cpio -o -H newc >../initrd`, busybox)
	pack.Dir = filepath.Join(dir, "root")
	if err := os.Mkdir(pack.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pack.Dir, "init"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	cmd := exec.Command(binary(t, "govmm"), "boot", "--initrd", filepath.Join(dir, "initrd"), "--memory", "256M", "--max-memory", "1G")
	console := &transcript{}
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	console.await(t, "it grew", 2*time.Minute)
	if err := cmd.Wait(); err != nil {
		t.Errorf("govmm boot: %v\n%s", err, console)
	}
}
