package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/agent/guest"
	"github.com/govmm/govmm/runtime/agent/host"
	"github.com/govmm/govmm/testhost/need"
)

// The tests run the guest's PID 1 without a VM: this binary again, in new namespaces, with a Unix socket in place of
// vsock and a directory in place of virtio-fs.
const pid1Name = "govmm-init: test"

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case guest.StageName:
		runtime.LockOSThread()
		guest.Stage()
	case clientName:
		if err := client(os.Args[1], os.Args[2]); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	case pid1Name:
		runtime.LockOSThread()
		// In one piece: it shares the stream with the test's results, and may be killed at any moment.
		_, _ = os.Stderr.WriteString("test PID 1: " + pid1(os.Args[1], os.Args[2]).Error() + "\n")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// pid1 sets up what a VM's guest.Boot would, in namespaces that the test has made.
func pid1(socket, dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	cfg := guest.Config{
		Dial: func() (guest.Stream, error) {
			c, err := net.Dial("unix", socket)
			if err != nil {
				return nil, err
			}
			return c.(*net.UnixConn), nil
		},
		Export:  func() (string, error) { return filepath.Join(dir, "export"), nil },
		Scratch: filepath.Join(dir, "scratch"),
		Reset:   func() { os.Exit(0) },
		Phases:  agent.Phases{Init: guest.BootTime()},
	}
	if d := os.Getenv("GOVMM_TEST_CGROUP"); d != "" {
		cfg.Cgroup = d
	}
	return guest.Run(cfg)
}

type fixture struct {
	*host.Client
	t    *testing.T
	ctx  context.Context
	dir  string
	root string
	cmd  *exec.Cmd
}

// start runs a PID 1 whose export has a busybox tree at /c/0.
func start(t *testing.T) *fixture {
	t.Helper()
	need.Root(t)
	box := need.Program(t, "busybox", "busybox-static")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(dir); d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755|os.ModeSticky) // users of the container look up through it
	}
	f := &fixture{t: t, dir: dir, root: filepath.Join(dir, "export/c/0")}
	for _, d := range []string{"bin", "etc", "tmp", "dev", "proc", "sys", "home/joe"} {
		must(t, os.MkdirAll(filepath.Join(f.root, d), 0o755))
	}
	must(t, os.Mkdir(filepath.Join(dir, "scratch"), 0o755))
	b, err := os.ReadFile(box)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(f.root, "bin/busybox"), b, 0o755))
	for _, a := range strings.Fields("sh true false cat echo sleep id ls stty sha256sum head dd mount grep kill hostname pwd env tty ps touch stat readlink wc") {
		must(t, os.Symlink("busybox", filepath.Join(f.root, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(f.root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n"), 0o644))
	f.connect()
	return f
}

func (f *fixture) connect() {
	t := f.t
	socket := filepath.Join(f.dir, "sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	exe, err := os.Executable()
	must(t, err)
	f.cmd = exec.Command(exe)
	f.cmd.Args = []string{pid1Name, socket, f.dir}
	f.cmd.Stderr = os.Stderr
	f.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
	}
	must(t, f.cmd.Start())
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	f.ctx = ctx
	f.Client, err = host.Accept(ctx, l)
	must(t, err)
	t.Cleanup(func() {
		cancel()
		_ = f.Client.Close()
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// allCaps are what this machine can give: the bounding set of the test.
func allCaps(t *testing.T) uint64 {
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "CapBnd:\t")
	var set uint64
	for _, c := range rest[:16] {
		set = set<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
	}
	return set
}

func standardMounts() []agent.Mount {
	const hidden = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	return []agent.Mount{
		{Source: "proc", Target: "/proc", Type: "proc"},
		{Source: "tmpfs", Target: "/dev", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		{Source: "devpts", Target: "/dev/pts", Type: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: "newinstance,ptmxmode=0666,mode=0620"},
		{Source: "shm", Target: "/dev/shm", Type: "tmpfs", Flags: hidden, Data: "mode=1777,size=65536k"},
		{Source: "mqueue", Target: "/dev/mqueue", Type: "mqueue", Flags: hidden},
		{Source: "sysfs", Target: "/sys", Type: "sysfs", Flags: hidden | unix.MS_RDONLY},
	}
}

func (f *fixture) spec(args ...string) *agent.CreateContainer {
	return &agent.CreateContainer{
		ID: "c", Rootfs: agent.Rootfs{Source: "/c/0"}, Mounts: standardMounts(), Hostname: "box", Process: f.process(args...),
	}
}

func (f *fixture) process(args ...string) agent.Process {
	caps := allCaps(f.t)
	return agent.Process{
		Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", Umask: 0o22,
		Capabilities: agent.Capabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}

type result struct {
	agent.Exited
	stdout, stderr string
}

// run creates, starts and waits.
func (f *fixture) run(m *agent.CreateContainer, stdin io.Reader) result {
	f.t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := f.create(m, stdio{stdin: stdin, stdout: &stdout, stderr: &stderr})
	must(f.t, err)
	must(f.t, f.Start(m.ID))
	e, err := p.Wait(f.ctx)
	must(f.t, err)
	p.out.Wait()
	must(f.t, f.Delete(m.ID))
	return result{e, stdout.String(), stderr.String()}
}

func TestStatus(t *testing.T) {
	f := start(t)
	for _, tt := range []struct {
		args   []string
		status uint8
		signal uint8
	}{
		{[]string{"true"}, 0, 0},
		{[]string{"false"}, 1, 0},
		{[]string{"sh", "-c", "exit 7"}, 7, 0},
		{[]string{"/bin/sh", "-c", "exit 255"}, 255, 0},
		{[]string{"sh", "-c", "sleep 1000 & exit 3"}, 3, 0}, // holds the pipes until its namespace ends
	} {
		got := f.run(f.spec(tt.args...), nil)
		if got.Status != tt.status || got.Signal != tt.signal || got.OOMKilled || got.stderr != "" {
			t.Errorf("%q: got %+v, want status %d, signal %d", tt.args, got, tt.status, tt.signal)
		}
	}
}

func TestStreams(t *testing.T) {
	f := start(t)
	got := f.run(f.spec("sh", "-c", "cat; echo to stderr >&2; echo last"), strings.NewReader("from stdin\n"))
	if got.stdout != "from stdin\nlast\n" || got.stderr != "to stderr\n" {
		t.Errorf("got stdout %q, stderr %q", got.stdout, got.stderr)
	}
	// No stream is /dev/null.
	m := f.spec("sh", "-c", "readlink /proc/self/fd/0; ls -l /dev/null | grep -c '1,   3'")
	if got := f.run(m, nil); got.stdout != "/dev/null\n1\n" {
		t.Errorf("without stdin: got %q %q", got.stdout, got.stderr)
	}
}

var errText = []struct {
	args []string
	code agent.Code
	text string
}{
	{[]string{"foo"}, agent.NoProgram, `exec: "foo": executable file not found in $PATH`},
	{[]string{"/nope"}, agent.NoProgram, `exec: "/nope": stat /nope: no such file or directory`},
	{[]string{"/etc/passwd"}, agent.NotExecutable, `exec: "/etc/passwd": permission denied`},
	{[]string{"/"}, agent.NotExecutable, `exec: "/": permission denied`},
	{[]string{""}, agent.NoProgram, `exec: "": executable file not found in $PATH`},
}

func TestNoProgram(t *testing.T) {
	f := start(t)
	for _, tt := range errText {
		_, err := f.create(f.spec(tt.args...), stdio{stdout: io.Discard})
		wantError(t, err, tt.code, tt.text)
	}
	m := f.spec("true")
	m.Process.Cwd = "/etc/passwd"
	_, err := f.create(m, stdio{})
	wantError(t, err, agent.Failed, `chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`)

	must(t, os.WriteFile(filepath.Join(f.root, "bin/bad"), []byte{1, 2, 3, 4}, 0o755))
	p, err := f.create(f.spec("bad"), stdio{})
	must(t, err)
	wantError(t, f.Start("c"), agent.NotExecutable, "exec /bin/bad: exec format error")
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 1 {
		t.Errorf("after a failed start: %+v, %v", e, err)
	}
}

func wantError(t *testing.T, err error, code agent.Code, text string) {
	t.Helper()
	var e *agent.Error
	if !errors.As(err, &e) || e.Code != code || e.Text != text {
		t.Errorf("got %v (code %d), want %q (code %d)", err, agent.CodeOf(err), text, code)
	}
}
