package lifecycle

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// stranger is a process in namespaces of its own, which are no micro-VM's.
func stranger(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", "hostname stranger; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		need.Lacking(t, need.RootUser, "the right to make namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// joining gives the config the paths of a process's namespaces.
func joining(s *specs.Spec, pid int, kinds ...string) {
	for i, ns := range s.Linux.Namespaces {
		for _, kind := range kinds {
			if strings.HasPrefix(string(ns.Type), kind) {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
			}
		}
	}
}

// TestJoinNamespaces has a monitor join another process's namespaces, each alone and all together.
func TestJoinNamespaces(t *testing.T) {
	for _, kinds := range [][]string{{"pid"}, {"net"}, {"ipc"}, {"uts"}, {"pid", "net", "ipc", "uts"}} {
		other := stranger(t)
		h := newHost(t, idle, func(s *specs.Spec) {
			joining(s, other, kinds...)
			s.Hostname = ""
		})
		c := h.startCreate("c", "", nil)
		pid := c.waitMonitor()
		for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt"} {
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", other, ns))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if err != nil {
				t.Fatal(err)
			}
			ours, err := os.Readlink("/proc/self/ns/" + ns)
			if err != nil {
				t.Fatal(err)
			}
			join := strings.Contains(strings.Join(kinds, " "), ns)
			if (got == theirs) != join || got == ours {
				t.Errorf("joining %q: %s is %s; the other's is %s, ours %s", kinds, ns, got, theirs, ours)
			}
		}
		// The monitor's parent is create, whichever thread has started it.
		if ppid := parentOf(t, pid); ppid != c.Process.Pid {
			t.Errorf("the monitor's parent is %d, want %d", ppid, c.Process.Pid)
		}
		if err := c.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.end()
		h.nothingLeft("c")
	}
}

func parentOf(t *testing.T, pid int) (ppid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nPPid:")
	if _, err := fmt.Sscan(rest, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

// TestJoinedName copies the name of a UTS namespace that is joined, and gives it the config's.
func TestJoinedName(t *testing.T) {
	for _, name := range []string{"", "fromconfig"} {
		other := stranger(t)
		within(t, 5e9, "the stranger's name", func() bool { return nameIn(t, other) == "stranger" })
		h := newHost(t, idle, func(s *specs.Spec) {
			joining(s, other, "uts")
			s.Hostname = name
		})
		c := h.startCreate("c", "", nil)
		c.waitMonitor()
		want := name
		if want == "" {
			want = "stranger"
		}
		if got := nameIn(t, other); got != want {
			t.Errorf("host name %q: the namespace's is %q, want %q", name, got, want)
		}
		if err := c.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.end()
	}
}

func nameIn(t *testing.T, pid int) string {
	t.Helper()
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-u", "hostname").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestJoinMicroVM refuses every namespace of another container, and of another state root's.
func TestJoinMicroVM(t *testing.T) {
	first := newHost(t, idle, nil)
	other := first.startCreate("first", "", nil)
	pid := other.waitMonitor()
	for _, kind := range []string{"pid", "net", "ipc", "uts"} {
		h := newHost(t, idle, func(s *specs.Spec) { joining(s, pid, kind) })
		status, text := h.startCreate("c", "", nil).end()
		if status != 1 || !strings.Contains(text, fmt.Sprintf("/proc/%d/ns/%s is that of another micro-VM (process %d)", pid, kind, pid)) {
			t.Errorf("%s: status %d, %q", kind, status, text)
		}
		h.nothingLeft("c")
	}
	if err := other.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	other.end()
	first.nothingLeft("first")
}
