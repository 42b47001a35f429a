package e2e

import (
	"encoding/json"
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

// TestProcessConfig looks from inside at what config.json says of the process and its surroundings.
func TestProcessConfig(t *testing.T) {
	r := newRuntime(t)
	outside := filepath.Join(r.dir, "outside")
	writeFile(t, outside, "from outside\n")
	umask := uint32(0o027)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Hostname = "guesthost"
		s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &umask}
		s.Process.NoNewPrivileges = true
		caps := []string{"CAP_KILL"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps}
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 222, Soft: 111}}
		s.Linux.Sysctl = map[string]string{"kernel.msgmax": "9999"}
		s.Linux.MaskedPaths = []string{"/proc/version", "/sys/kernel"}
		s.Linux.ReadonlyPaths = []string{"/proc/sys"}
		s.Root.Readonly = true
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "size=1m", "mode=1777"}},
			specs.Mount{Destination: "/tmp/file", Type: "bind", Source: outside, Options: []string{"bind", "ro"}})
	}, "/bin/sh", "-c", `id -u; id -g; grep Groups: /proc/self/status; umask; hostname; ulimit -Sn; ulimit -Hn
grep -E 'NoNewPrivs|CapEff' /proc/self/status
cat /proc/sys/kernel/msgmax
echo version:$(wc -c < /proc/version); echo masked:$(ls /sys/kernel | wc -l)
touch /root-file 2>&1; echo x 2>&1 > /proc/sys/kernel/msgmax
cat /tmp/file; echo y 2>&1 > /tmp/file
grep ' /tmp ' /proc/self/mountinfo`)
	res := r.run("run", "--bundle", bundle, r.id())
	for _, want := range []string{
		"1000\n1001\n", "5 6", "0027\n", "guesthost\n111\n222\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000020\n", "9999\n",
		"version:0\n", "masked:0\n", "touch: /root-file: Read-only file system\n", "from outside\n", "nosuid", "noexec", "size=1024k",
		"can't create /proc/sys/kernel/msgmax: Read-only file system", "can't create /tmp/file: Read-only file system",
	} {
		if !strings.Contains(res.out, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Logf("status %d, stdout %s\nstderr %s", res.status, res.out, res.err)
	}
}

// TestSeccomp shows a profile's actions to a container's process and to those of exec.
func TestSeccomp(t *testing.T) {
	r := newRuntime(t)
	exdev := uint(syscall.EXDEV)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Process.NoNewPrivileges = false // the filter is then in place before privileges are dropped
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
			Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &exdev},
				{Names: []string{"umount2", "no_such_call"}, Action: specs.ActKillProcess},
				{Names: []string{"kill"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: uint64(syscall.SIGUSR1)}}},
			},
		}
	}, "/bin/sh", "-c", "mkdir /tmp/a 2>/tmp/out; grep Seccomp: /proc/self/status >>/tmp/out; touch /tmp/done; exec sleep 1000")
	id := r.id()
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	r.run("exec", id, "/bin/sh", "-c", "while ! test -e /tmp/done; do sleep 0.1; done; cat /tmp/out").
		want(t, 0, "mkdir: can't create directory '/tmp/a': Invalid cross-device link\nSeccomp:\t2\n", "")
	r.run("exec", id, "/bin/mkdir", "/tmp/b").want(t, 1, "", "mkdir: can't create directory '/tmp/b': Invalid cross-device link")
	r.run("exec", id, "/bin/umount", "/proc").want(t, 128+int(syscall.SIGSYS), "", "")
	r.run("exec", id, "/bin/sh", "-c", "kill -USR1 $$").want(t, 1, "", "Operation not permitted")
	r.run("exec", id, "/bin/sh", "-c", "kill -USR2 $$").want(t, 128+int(syscall.SIGUSR2), "", "")
}

func TestMemoryLimit(t *testing.T) {
	r := newRuntime(t)
	limit := int64(32 << 20)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}, "/bin/tail", "/dev/zero")
	r.run("run", "--bundle", bundle, r.id()).want(t, 137, "", "")
}

func TestProcessLimit(t *testing.T) {
	r := newRuntime(t)
	limit := int64(10)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	}, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done; wait")
	res := r.run("run", "--bundle", bundle, r.id())
	if !strings.Contains(res.err, "can't fork") {
		t.Errorf("twelve processes where ten are allowed: status %d, %q, %q", res.status, res.out, res.err)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r := newRuntime(t)
	res := r.run("run", "--bundle", r.sh(`for i in 1 2 3; do sh -c 'sleep 0.2 & exit 0'; done; sleep 1; ps | grep -c '\[sleep\]'`), r.id())
	// The container's process 1 is a shell: it reaps what it adopts as any process 1 must.
	if res.out != "0\n" {
		t.Errorf("stdout %q, stderr %q", res.out, res.err)
	}
}

// TestGuestPanic has a container with the right to panic its own kernel do so.
func TestGuestPanic(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Linux.ReadonlyPaths, s.Linux.MaskedPaths = nil, nil
	}, "/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 10")
	begin := time.Now()
	res := r.run("run", "--bundle", bundle, r.id())
	if res.status == 0 || !strings.Contains(strings.ToLower(res.err), "panic") || strings.Count(res.err, "\n") != 1 {
		t.Errorf("status %d after %v, stderr %q; want one line that says panic", res.status, time.Since(begin), res.err)
	}
	check()
}

// TestNoHostFiles walks the whole guest for what the monitor has and the container must not see.
func TestNoHostFiles(t *testing.T) {
	r := newRuntime(t)
	res := r.run("run", "--bundle", r.sh(`ls -a /; grep -E 'virtiofs|fuse' /proc/self/mountinfo | wc -l; ls /proc/1/root; cat /proc/1/cmdline`), r.id())
	if res.status != 0 || strings.Contains(res.out, "config.json") || strings.Contains(res.out, "control") || strings.Contains(res.out, "govmm") {
		t.Errorf("status %d, stdout %q, stderr %q", res.status, res.out, res.err)
	}
}

// TestLogJSON pins the line that containerd and podman read.
func TestLogJSON(t *testing.T) {
	r := newRuntime(t)
	log := filepath.Join(r.dir, "log.json")
	r.run("--log", log, "--log-format", "json", "state", "none").want(t, 1, "", "container does not exist")
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var entry map[string]string
	if err := json.Unmarshal(b, &entry); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if _, err := time.Parse(time.RFC3339, entry["time"]); err != nil {
		t.Error(err)
	}
	if entry["level"] != "error" || entry["msg"] != "container does not exist" || len(entry) != 3 || strings.Count(string(b), "\n") != 1 {
		t.Errorf("log is %q", b)
	}
}

// TestSpecUnderRunc runs what spec writes under both runtimes.
func TestSpecUnderRunc(t *testing.T) {
	r := newRuntime(t)
	runc := need.Program(t, "runc", "runc")
	bundle := r.bundle(nil, "/bin/sh", "-c", "hostname; id -u; pwd; grep Cap /proc/self/status; ulimit -n; echo $PATH")
	theirs := finish(t, exec.Command(runc, "--root", filepath.Join(r.dir, "runc"), "run", "--bundle", bundle, r.id()), nil)
	ours := r.run("run", "--bundle", bundle, r.id())
	if theirs.status != 0 || theirs != ours {
		t.Errorf("runc: %+v\ngovmm-run: %+v", theirs, ours)
	}
}
