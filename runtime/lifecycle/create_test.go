package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/terminal"
	"github.com/govmm/govmm/testhost/need"
)

// TestGuestEnds has a guest that ends instead of calling.
func TestGuestEnds(t *testing.T) {
	h := newHost(t, reset, nil)
	status, text := h.startCreate("c", "", nil).end()
	if status != 1 || text != "unable to start container process: the guest reset itself\n" {
		t.Errorf("status %d, %q", status, text)
	}
	h.nothingLeft("c")
}

// TestCreateInterrupted tells a create to end while its guest boots.
func TestCreateInterrupted(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		h := newHost(t, idle, nil)
		// The tests may run under nohup, whose children ignore SIGHUP.
		c := h.startCreate("c", "", through("env", "--default-signal=HUP", "bash", "-c", `exec -a "$0" "$@"`))
		c.waitMonitor()
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if status, text := c.end(); status != 1 || !strings.Contains(text, s.String()) {
			t.Errorf("%v: status %d, %q", s, status, text)
		}
		h.nothingLeft("c")
	}
}

// through has a create started by another program, whose last argument is a script for bash: $0 is the name to go by, "$@" the
// program and its arguments.
func through(starter ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		by := exec.Command(starter[0], starter[1:]...)
		self := fmt.Sprintf("/proc/%d/exe", os.Getpid())
		cmd.Path, cmd.Args = by.Path, slices.Concat(by.Args, []string{cmd.Args[0], self}, cmd.Args[1:])
	}
}

// TestCreateIgnores hangs up on a create that nohup started.
func TestCreateIgnores(t *testing.T) {
	h := newHost(t, idle, nil)
	c := h.startCreate("c", "", through("bash", "-c", `trap "" HUP; exec -a "$0" "$@"`))
	c.waitMonitor()
	if err := c.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, text := c.end(); status != 1 || !strings.Contains(text, "terminated") {
		t.Errorf("status %d, %q; want the end by SIGTERM", status, text)
	}
	h.nothingLeft("c")
}

// TestCreateKilled kills creates at many points. What is left is a container that has stopped, without a process: delete
// removes it, and a create under its id does not mind it.
func TestCreateKilled(t *testing.T) {
	h := newHost(t, idle, nil)
	for i := range 24 {
		c := h.startCreate("c", "", nil)
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		if i == 23 {
			c.waitMonitor()
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.end()
		// A monitor that was just being forked holds what the create held until it is itself, and then notices.
		var err error
		within(t, 5*time.Second, "a container that has stopped, or none", func() bool {
			var left *container.Container
			left, err = h.State("c")
			return err != nil || left.Status() == container.Stopped
		})
		within(t, 5*time.Second, "the monitor's end", func() bool { return len(monitors(t, "c")) == 0 })
		if errors.Is(err, container.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			continue // the next create finds it
		}
		if err := h.Delete("c", false); err != nil {
			t.Error(err)
		}
		h.nothingLeft("c")
	}
	if err := h.Delete("c", true); err != nil {
		t.Error(err)
	}
	h.nothingLeft("c")
}

// TestCreateRace starts two creates of one id.
func TestCreateRace(t *testing.T) {
	h := newHost(t, idle, nil)
	a := h.startCreate("c", "", nil)
	a.waitMonitor()
	if c, err := h.State("c"); err != nil || c.Status() != container.Creating {
		t.Errorf("state of a create under way: %v, %v", c.Status(), err)
	}
	b := h.startCreate("c", "", nil)
	if status, text := b.end(); status != 1 || text != "container with given ID already exists\n" {
		t.Errorf("the second create: status %d, %q", status, text)
	}
	if err := h.Kill("c", unix.SIGTERM, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill of one that is being created: %v", err)
	}
	if err := a.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.end()
	h.nothingLeft("c")
}

// TestMonitorProcess looks at the process that create starts: nothing of the caller's stays open in it, and engines that
// enter its namespaces find the container's.
func TestMonitorProcess(t *testing.T) {
	h := newHost(t, idle, nil)
	stray, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	defer other.Close()
	c := h.startCreate("c", "", func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, stray, other}      // descriptors 7 and 8
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // as conmon and go-runc do
	})
	pid := c.waitMonitor()
	pipe, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", stray.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to == pipe {
			t.Errorf("%s is the caller's %s", link, to)
		}
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || ours == theirs {
			t.Errorf("%s namespace %s, %v: the caller's", ns, theirs, err)
		}
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of monitor %d, %v", sid, pid, err)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	rootfs, err := os.Stat(filepath.Join(h.bundle, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(root); err != nil || !os.SameFile(st, rootfs) {
		t.Errorf("the monitor's root is not the container's: %v", err)
	}
	if b, err := os.ReadFile(root + "/proc/1/comm"); err != nil || string(b) != "govmm-monitor\n" {
		t.Errorf("process 1 as engines see it: %q, %v", b, err)
	}
	if b, err := os.ReadFile(root + "/proc/1/cmdline"); err != nil || string(b) != "sh\x00" {
		t.Errorf("its command line is %q, not the container's, %v", b, err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || string(environ) != "GOVMM_MONITOR=c\x00GOMAXPROCS=2\x00" {
		t.Errorf("environment %q, %v", environ, err)
	}
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.end()
	h.nothingLeft("c")
}

// TestMonitorKilled takes the monitor away from its create.
func TestMonitorKilled(t *testing.T) {
	h := newHost(t, idle, nil)
	c := h.startCreate("c", "", nil)
	if err := unix.Kill(c.waitMonitor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, text := c.end(); status != 1 || !strings.Contains(text, "the monitor ended without a word") {
		t.Errorf("status %d, %q", status, text)
	}
	h.nothingLeft("c")
}

// TestFullDisk gives the state root room for a few files only, one more each time: creates fail at every step that needs
// one, until the guest boots.
func TestFullDisk(t *testing.T) {
	h := newHost(t, idle, nil)
	failed := 0
	for inodes := 1; ; inodes++ {
		if err := os.MkdirAll(h.root, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", h.root, "tmpfs", 0, "nr_inodes="+strconv.Itoa(inodes)); err != nil {
			need.Lacking(t, need.RootUser, "the right to mount: %v", err)
		}
		unmount := func() { _ = unix.Unmount(h.root, unix.MNT_DETACH) }
		t.Cleanup(unmount)
		c := h.startCreate("c", "", nil)
		timer := time.AfterFunc(2*time.Second, func() { _ = c.Process.Signal(unix.SIGTERM) })
		status, text := c.end()
		timer.Stop()
		h.nothingLeft("c")
		unmount()
		if status != 1 {
			t.Fatalf("%d inodes: status %d, %q", inodes, status, text)
		}
		if strings.Contains(text, "terminated") {
			break // there was room for all
		}
		failed++
		if !strings.Contains(text, "no space left on device") {
			t.Errorf("%d inodes: %q", inodes, text)
		}
	}
	// The directory, the new state and the control socket.
	if failed < 3 {
		t.Errorf("only %d steps failed", failed)
	}
}

func withTerminal(s *specs.Spec) { s.Process.Terminal = true }

// TestConsoleSocket takes the terminal's master, over a socket whose path is relative to the caller's directory.
func TestConsoleSocket(t *testing.T) {
	h := newHost(t, idle, withTerminal)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(h.bundle, "tty")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := h.startCreate("c", "./tty", func(cmd *exec.Cmd) { cmd.Dir = h.bundle })
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil || !strings.HasPrefix(string(name[:n]), "/dev/pts/") {
		t.Fatalf("message %q, %v", name[:n], err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	master := os.NewFile(uintptr(fds[0]), "master")
	defer master.Close()
	if err := terminal.SetSize(master, terminal.Size{Rows: 33, Columns: 44}); err != nil {
		t.Errorf("not a terminal: %v", err)
	}
	pid := c.waitMonitor()
	// It is the monitor's controlling terminal: field 7 of /proc/pid/stat.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(string(stat)); f[6] == "0" {
		t.Errorf("no controlling terminal: %s", stat)
	}
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.end()
	h.nothingLeft("c")
}

func TestConsoleSocketRefused(t *testing.T) {
	for _, tt := range []struct {
		socket string
		edit   func(*specs.Spec)
		want   string
	}{
		{"", withTerminal, "cannot allocate tty if govmm-run will detach without setting console socket"},
		{"/nope", nil, "cannot use console socket if govmm-run will not detach or allocate tty"},
		{"/nope/s", withTerminal, "console socket /nope/s: no such file or directory"},
		{"/dev/null", withTerminal, "console socket /dev/null: "},
	} {
		h := newHost(t, idle, tt.edit)
		if status, text := h.startCreate("c", tt.socket, nil).end(); status != 1 || !strings.Contains(text, tt.want) {
			t.Errorf("%q: status %d, %q; want %q", tt.socket, status, text, tt.want)
		}
		h.nothingLeft("c")
	}
}

func TestPIDFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pid")
	if err := writePIDFile(path, 4711); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "4711" {
		t.Errorf("pid file %q, %v", b, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "taken/x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"taken", "none/pid"} {
		if err := writePIDFile(filepath.Join(dir, bad), 1); err == nil || !strings.HasPrefix(err.Error(), "pid file: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}
