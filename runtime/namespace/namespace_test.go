package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// process starts one in new namespaces and returns its pid.
func process(t *testing.T, flags uintptr) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		need.Lacking(t, need.RootUser, "the right to make namespaces")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func open(t *testing.T, kind specs.LinuxNamespaceType, pid int) *Namespace {
	t.Helper()
	n, err := Open(kind, fmt.Sprintf("/proc/%d/ns/%s", pid, kinds[kind].link))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func TestOpenRefuses(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{"/nope", "namespace path: open /nope: no such file or directory"},
		{"/proc/self/ns/uts", "failed to setns into network namespace: /proc/self/ns/uts is a uts namespace"},
		{"/proc/self/ns/mnt", "failed to setns into network namespace: /proc/self/ns/mnt is a mount namespace"},
		{fifo, "failed to setns into network namespace: " + fifo + " is no namespace"},
		{"/dev/null", "failed to setns into network namespace: /dev/null is no namespace"},
	} {
		if _, err := Open(specs.NetworkNamespace, tt.path); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.path, err, tt.want)
		}
	}
}

// TestRun joins four namespaces: what is started there is in them, and this process is not.
func TestRun(t *testing.T) {
	pid := process(t, unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	var list []*Namespace
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		list = append(list, open(t, kind, pid))
	}
	var child *os.Process
	err := Run(list, func() (err error) {
		child, err = os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Kill()
		_, _ = child.Wait()
	}()
	for _, n := range list {
		if !n.Of(pid) || !n.Of(child.Pid) || n.Of(0) {
			t.Errorf("%s: of the first process %v, of the second %v, ours %v", n.Type, n.Of(pid), n.Of(child.Pid), n.Of(0))
		}
	}
	if err := Run(list, func() error { return unix.EXDEV }); !errors.Is(err, unix.EXDEV) {
		t.Errorf("error %v", err)
	}
	// A mount namespace takes a process of one thread.
	if err := Run([]*Namespace{open(t, specs.MountNamespace, pid)}, func() error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("joining a mount namespace: %v", err)
	}
	for range 50 { // other goroutines run on threads of their own
		go func() {}()
		if n := open(t, specs.UTSNamespace, pid); n.Of(0) {
			t.Fatal("this process has moved")
		}
	}
}

func TestHostname(t *testing.T) {
	n := open(t, specs.UTSNamespace, process(t, unix.CLONE_NEWUTS))
	if err := Run([]*Namespace{n}, func() error { return unix.Sethostname([]byte("elsewhere")) }); err != nil {
		t.Fatal(err)
	}
	if name, err := n.Hostname(); err != nil || name != "elsewhere" {
		t.Errorf("name %q, %v", name, err)
	}
	if name, err := os.Hostname(); err != nil || name == "elsewhere" {
		t.Errorf("our own name is %q, %v", name, err)
	}
}
