package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/testhost/need"
)

// shell runs a script in a directory, which must succeed, and returns what it prints.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// systemdRoot is a Debian root with systemd that can be written to, below dir.
func systemdRoot(t *testing.T, dir string) string {
	t.Helper()
	disk := debianDisk(t)
	loop := shell(t, dir, "losetup --find --show --read-only "+filepath.Join(disk, "disk.img"))
	t.Cleanup(func() { shell(t, dir, "losetup --detach "+loop) })
	shell(t, dir, "mkdir lower upper work root; mount -t ext4 -o ro,noload "+loop+" lower; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root")
	t.Cleanup(func() { shell(t, dir, "umount root; umount lower") })
	return filepath.Join(dir, "root")
}

// TestSystemdInContainer has systemd as a container's PID 1, as podman sets it up: it comes up, runs a service, and shuts down on
// SIGRTMIN+3.
func TestSystemdInContainer(t *testing.T) {
	r := newRuntime(t)
	root := systemdRoot(t, r.dir)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Root.Path = root
		s.Process.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=podman"}
		caps := append(rootCaps[:len(rootCaps):len(rootCaps)], "CAP_SYS_ADMIN")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Process.Rlimits = nil
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/sys/fs/cgroup" {
				s.Mounts[i].Options = []string{"private", "rw"}
			}
		}
		for _, dir := range []string{"/run", "/run/lock", "/tmp", "/var/log/journal"} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: []string{"rw", "nosuid", "nodev", "mode=755"}})
		}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}, "/lib/systemd/systemd")
	id := r.id()
	r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
	state := ""
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end) && state != "running"; time.Sleep(time.Second) {
		state = strings.TrimSpace(r.run("exec", id, "/bin/systemctl", "is-system-running").out)
	}
	if state != "running" {
		t.Fatalf("systemd is %q\n%s", state, r.run("exec", id, "/bin/systemctl", "--failed", "--no-pager").out)
	}
	script := `systemctl is-active systemd-journald.service
systemd-run --quiet --collect --wait --property=MemoryMax=50M --slice=mine.slice sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max >/tmp/limit'
cat /tmp/limit`
	r.run("exec", id, "/bin/sh", "-c", script).want(t, 0, "active\n52428800\n", "")
	r.run("kill", id, "RTMIN+3").want(t, 0, "", "")
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
}

// nestedSystemd is a systemd that manages a part of this machine's cgroups, as PID 1 of a PID namespace, with a root of its own.
type nestedSystemd struct {
	t   *testing.T
	pid int
	dir string
}

// startSystemd starts one. Its root has the directory dir, and runtimes in /opt.
func startSystemd(t *testing.T, dir string, programs ...string) *nestedSystemd {
	t.Helper()
	root := systemdRoot(t, dir)
	shared := filepath.Join(dir, "shared")
	opt := filepath.Join(root, "opt")
	for _, p := range programs {
		shell(t, dir, "cp "+p+" "+opt)
	}
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-ec", `echo +cpu +cpuset +io +memory +pids >/sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/nested
exec unshare --pid --fork --kill-child sh -ec 'echo 0 >/sys/fs/cgroup/nested/cgroup.procs; exec unshare --cgroup --mount --ipc --uts sh -ec "$0" "$@"' '
cd "$1"; mkdir -p ."$2" old
mount --make-rprivate /
mount --bind . . && cd "$1"
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup; mount --rbind /dev dev; mount -t tmpfs run run
mount --bind "$2" ."$2"
pivot_root . old; umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=no' sh "$0" "$1"`, root, shared)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log := outputFile(t)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &nestedSystemd{t: t, dir: shared}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and by --kill-child all that is in the PID namespace
		_ = cmd.Wait()
		shell(t, dir, `for i in $(seq 100); do [ -n "$(cat /sys/fs/cgroup/nested/cgroup.procs)" ] || break; sleep 0.1; done
find /sys/fs/cgroup/nested -depth -type d -exec rmdir {} +`)
	})
	var out string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if _, err := fmt.Sscan(string(children), &s.pid); err != nil {
			continue
		}
		if out, _ = s.run("systemctl", "is-system-running"); out == "running\n" || out == "degraded\n" {
			return s
		}
	}
	t.Fatalf("systemd does not come up: %s%s", out, contents(t, log))
	return nil
}

// service runs a script as a service of the systemd: it moves only processes of its own cgroups to others.
func (s *nestedSystemd) service(script string) string {
	out, _ := s.run("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "/bin/sh", "-c", script)
	return out
}

// enter is a command that runs others beside the systemd.
func (s *nestedSystemd) enter() []string {
	return []string{"nsenter", "--target", fmt.Sprint(s.pid), "--cgroup", "--mount", "--pid", "--ipc", "--uts"}
}

// run runs a command beside the systemd and returns what it prints, and its status.
func (s *nestedSystemd) run(command ...string) (string, int) {
	argv := append(s.enter(), command...)
	cmd := exec.Command(argv[0], argv[1:]...)
	out := outputFile(s.t)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	_ = cmd.Run()
	return contents(s.t, out), cmd.ProcessState.ExitCode()
}

// TestSystemdCgroup has a real systemd make containers' scopes, for runc and for govmm-run, and compares what it says of them.
func TestSystemdCgroup(t *testing.T) {
	needVM(t)
	for _, p := range []string{"unshare", "nsenter", "losetup"} {
		need.Program(t, p, "util-linux")
	}
	r := newRuntime(t)
	runc := need.Program(t, "runc", "runc")
	s := startSystemd(t, r.dir, r.binary, runc)
	var said []string
	for _, runtime := range []string{"runc", "govmm-run"} {
		memory, quota, period, pids := int64(64<<20), int64(50000), uint64(100000), int64(44)
		bundle := r.bundle(func(spec *specs.Spec) {
			spec.Linux.CgroupsPath = "system.slice:engine:c1"
			spec.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Pids: &specs.LinuxPids{Limit: &pids},
			}
		}, "/bin/sleep", "1000")
		if err := os.Rename(bundle, filepath.Join(s.dir, "bundle")); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf(`exec 2>&1; cd %s; run="/opt/%s --root /run/state --systemd-cgroup"; unit=engine-c1.scope; scope=/sys/fs/cgroup/system.slice/$unit
$run run --detach --bundle bundle c1 </dev/null >log 2>&1; echo $?; cat log
show() { systemctl show -p ActiveState -p Slice -p CPUQuotaPerSecUSec -p Description $unit; cat $scope/cpu.max; [ $(wc -l <$scope/cgroup.procs) -ge 1 ] && echo populated; }
show
$run exec c1 /bin/sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max'
$run update --cpu-quota 25000 --memory 96M --memory-swap 96M c1; echo $?
show
$run exec c1 /bin/cat /sys/fs/cgroup/memory.max
$run kill c1 KILL; i=0; until $run state c1 2>&1 | grep -q -e stopped -e 'not exist' || [ $i = 100 ]; do sleep 0.1; i=$((i+1)); done
$run delete c1; echo $?
i=0; while [ -e $scope ] && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; [ -e $scope ] && echo left
systemctl is-active $unit; rm -rf bundle /run/state`, s.dir, runtime)
		said = append(said, strings.ReplaceAll(s.service(script), runtime, "RUNTIME"))
	}
	if !strings.Contains(said[0], "ActiveState=active") || !strings.Contains(said[0], "25000 100000") || said[0] != said[1] {
		t.Errorf("runc:\n%s\ngovmm-run:\n%s", said[0], said[1])
	}
}
