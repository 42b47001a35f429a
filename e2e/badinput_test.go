package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// badInput is a call that must fail, with the words that it must fail with.
type badInput struct {
	name   string
	global []string // flags before the command
	bundle func(t *testing.T, r *rt) string
	id     string // a fresh one if empty
	status int
	err    string
}

func withSpec(edit func(*specs.Spec)) func(*testing.T, *rt) string {
	return func(_ *testing.T, r *rt) string { return r.bundle(edit, "/bin/true") }
}

func withArgs(args ...string) func(*testing.T, *rt) string {
	return func(_ *testing.T, r *rt) string { return r.bundle(nil, args...) }
}

// withConfig is a good bundle whose config.json is text.
func withConfig(text string) func(*testing.T, *rt) string {
	return func(t *testing.T, r *rt) string {
		dir := r.bundle(nil, "/bin/true")
		writeFile(t, filepath.Join(dir, "config.json"), text)
		return dir
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBadInput(t *testing.T) {
	r := newRuntime(t)
	text := filepath.Join(r.dir, "text")
	writeFile(t, text, "this is no kernel\n")
	elf := filepath.Join(r.dir, "elf")
	writeFile(t, elf, "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 20))
	ok := withArgs("/bin/true")
	for _, tt := range []badInput{
		{name: "no bundle", bundle: func(_ *testing.T, r *rt) string { return filepath.Join(r.dir, "none") }, status: 1,
			err: "none: no such file or directory"},
		{name: "no config", bundle: func(t *testing.T, _ *rt) string { return t.TempDir() }, status: 1,
			err: "govmm-run run failed: JSON specification file config.json not found"},
		{name: "malformed config", bundle: withConfig(`{"ociVersion": `), status: 1, err: "config.json: unexpected EOF"},
		{name: "config of another kind", bundle: withConfig(`{"process": {"args": "ls"}}`), status: 1,
			err: "config.json: json: cannot unmarshal string into Go struct field Process.process.args of type []string"},
		{name: "unknown version", bundle: withSpec(func(s *specs.Spec) { s.Version = "9.0.0" }), status: 1,
			err: `config.json: unsupported ociVersion "9.0.0": govmm-run reads 1.x`},
		{name: "unsupported field", bundle: withSpec(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} }), status: 1,
			err: "config field linux.intelRdt is not supported yet"},
		{name: "missing rootfs", bundle: withSpec(func(s *specs.Spec) { s.Root.Path = "nowhere" }), status: 1, err: "invalid rootfs: "},
		{name: "process not found", bundle: withArgs("/nope"), status: 127,
			err: `exec: "/nope": stat /nope: no such file or directory`},
		{name: "process not in PATH", bundle: withArgs("nope"), status: 127,
			err: `exec: "nope": executable file not found in $PATH`},
		{name: "not executable", bundle: withArgs("/etc/passwd"), status: 126, err: `exec: "/etc/passwd": permission denied`},
		{name: "cwd missing", bundle: withSpec(func(s *specs.Spec) { s.Process.Cwd = "/proc/none" }), status: 1,
			err: `chdir to cwd ("/proc/none") set in config.json failed`},
		{name: "memory too small", bundle: withSpec(func(s *specs.Spec) {
			s.Annotations = map[string]string{"io.govmm.memory": "1M"}
		}), status: 1, err: "is too small: at least 64 MiB"},
		{name: "no kernel", global: []string{"--kernel", "/none"}, bundle: ok, status: 1, err: "--kernel: stat /none: no such file"},
		{name: "text as kernel", global: []string{"--kernel", text}, bundle: ok, status: 1, err: "boot: kernel: neither ELF nor bzImage"},
		{name: "truncated kernel", global: []string{"--kernel", elf}, bundle: ok, status: 1, err: "boot: kernel: the ELF file is truncated"},
		{name: "id with a slash", bundle: ok, id: "a/b", status: 1, err: "invalid container ID format"},
		{name: "id too long", bundle: ok, id: strings.Repeat("x", 256), status: 1, err: "invalid container ID format: 256 characters are too many"},
		{name: "id that climbs", bundle: ok, id: "..", status: 1, err: "invalid container ID format"},
		{name: "terminal without a socket", bundle: withSpec(func(s *specs.Spec) { s.Process.Terminal = true }), status: 1,
			err: "cannot allocate tty if govmm-run will detach without setting console socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := tt.id
			if id == "" {
				id = r.id()
			}
			args := append(tt.global, "run", "--bundle", tt.bundle(t, r))
			if strings.HasPrefix(tt.name, "terminal") {
				args = append(args, "--detach")
			}
			check := r.leftovers(t)
			res := r.run(append(args, id)...)
			if res.status != tt.status || !strings.Contains(unquote(res.err), tt.err) {
				t.Errorf("status %d, stderr %q; want %d, %q", res.status, res.err, tt.status, tt.err)
			}
			if n := strings.Count(res.err, "\n"); n != 1 {
				t.Errorf("%d lines on standard error: %q", n, res.err)
			}
			check()
		})
	}
}

// TestNoKVM hides /dev/kvm from govmm-run in a mount namespace of its own.
func TestNoKVM(t *testing.T) {
	r := newRuntime(t)
	bundle := r.bundle(nil, "/bin/true")
	for _, tt := range []struct{ name, hide, err string }{
		{"absent", "mkdir -p $D/dev && mount -t tmpfs t $D/dev && cp -a /dev/null /dev/zero /dev/urandom $D/dev && mount --move $D/dev /dev",
			"/dev/kvm: no such file or directory: load the module kvm_amd or kvm_intel"},
		{"unreadable", "mkdir -p $D/d && mount -t tmpfs -o nodev t $D/d && cp -a /dev/kvm $D/d && mount --bind $D/d/kvm /dev/kvm",
			"/dev/kvm: permission denied: run as root, or add the user to the group kvm"},
		{"not a KVM", "mount --bind /dev/null /dev/kvm", "KVM_GET_API_VERSION: inappropriate ioctl for device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := r.leftovers(t)
			cmd := exec.Command("unshare", "-m", "sh", "-c", tt.hide+` && exec "$@"`, "sh",
				r.binary, "--root", r.root, "run", "--bundle", bundle, r.id())
			cmd.Env = append(os.Environ(), "D="+t.TempDir())
			res := finish(t, cmd, nil)
			if res.status != 1 || !strings.Contains(res.err, tt.err) {
				t.Errorf("status %d, stderr %q", res.status, res.err)
			}
			check()
		})
	}
}

func TestWrongState(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, bundle := r.id(), r.sh("while :; do sleep 0.1; done")
	r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("run", "--bundle", bundle, id).want(t, 1, "", "container with given ID already exists")
	r.run("delete", id).want(t, 1, "", "cannot delete container "+id+" that is not stopped: running")
	r.run("kill", id, "KILL").want(t, 0, "", "")
	r.waitStatus(id, "stopped")
	r.run("kill", id, "TERM").want(t, 1, "", "container not running")
	r.run("delete", id).want(t, 0, "", "")
	check()
}

// TestMonitorKilled takes the monitor away with the signal that it cannot catch.
func TestMonitorKilled(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	id, pidFile := r.id(), filepath.Join(r.dir, "pid")
	r.run("run", "--detach", "--pid-file", pidFile, "--bundle", r.sh("while :; do sleep 0.1; done"), id).want(t, 0, "", "")
	if err := syscall.Kill(readPID(t, pidFile), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.waitStatus(id, "stopped")
	r.run("exec", id, "/bin/true").want(t, 255, "", "cannot exec in a stopped container")
	r.run("delete", id).want(t, 0, "", "")
	check()
}

// TestFullDisk has a state root, and then a root file system, without room.
func TestFullDisk(t *testing.T) {
	r := newRuntime(t)
	small := filepath.Join(r.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	t.Run("root file system", func(t *testing.T) {
		check := r.leftovers(t)
		bundle := r.bundle(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: small, Options: []string{"rbind", "rw"}})
		}, "/bin/sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=16; s=$?; rm /tmp/big; exit $s")
		res := r.run("run", "--bundle", bundle, r.id())
		if res.status != 1 || !strings.Contains(res.err, "No space left on device") {
			t.Errorf("status %d, stderr %q", res.status, res.err)
		}
		check()
	})
	t.Run("state root", func(t *testing.T) {
		full := *r
		full.root = filepath.Join(small, "state")
		bundle := r.bundle(nil, "/bin/true")
		fill := filepath.Join(small, "fill")
		_ = finish(t, exec.Command("dd", "if=/dev/zero", "of="+fill, "bs=4k"), nil)
		check := full.leftovers(t)
		res := full.run("run", "--bundle", bundle, r.id())
		if res.status != 1 || !strings.Contains(res.err, "no space left on device") {
			t.Errorf("status %d, stderr %q", res.status, res.err)
		}
		check()
	})
}
