package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func readPID(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// tty is the user's side of a terminal; what arrives is gathered in seen.
type tty struct {
	t      *testing.T
	master *os.File
	data   chan string
	seen   string
}

func newTTY(t *testing.T, master *os.File) *tty {
	term := &tty{t: t, master: master, data: make(chan string, 1024)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if n > 0 {
				term.data <- string(buf[:n])
			}
			if err != nil {
				close(term.data)
				return
			}
		}
	}()
	t.Cleanup(func() { master.Close() })
	return term
}

// openPTY makes a pseudo-terminal of the host.
func openPTY(t *testing.T, rows, columns uint16) (*tty, *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := newTTY(t, master)
	term.resize(rows, columns)
	return term, slave
}

func (term *tty) resize(rows, columns uint16) {
	term.t.Helper()
	conn, err := term.master.SyscallConn()
	if err != nil {
		term.t.Fatal(err)
	}
	_ = conn.Control(func(fd uintptr) {
		if err := unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
			term.t.Error(err)
		}
	})
}

func (term *tty) send(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until text has arrived, and forgets what came up to it.
func (term *tty) expect(text string) {
	term.t.Helper()
	timeout := time.After(40 * time.Second)
	for {
		if _, rest, ok := strings.Cut(term.seen, text); ok {
			term.seen = rest
			return
		}
		select {
		case s, ok := <-term.data:
			if !ok {
				term.t.Fatalf("the terminal ended before %q: %q", text, term.seen)
			}
			term.seen += s
		case <-timeout:
			term.t.Fatalf("no %q within 40 s: %q", text, term.seen)
		}
	}
}

func withTerminal(s *specs.Spec) { s.Process.Terminal = true }

// TestTerminal drives a shell through run's terminal.
func TestTerminal(t *testing.T) {
	r := newRuntime(t)
	check := r.leftovers(t)
	term, slave := openPTY(t, 33, 101)
	cmd := r.command("run", "--bundle", r.bundle(withTerminal, "/bin/sh"), r.id())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	term.expect("# ")
	term.send("test -t 0 && test -t 1 && echo is-a-$((1))-tty; stty size\n")
	term.expect("is-a-1-tty")
	term.expect("33 101")
	term.resize(40, 120) // the kernel sends SIGWINCH to run
	term.send("sleep 1; stty size\n")
	term.expect("40 120")
	term.send("sleep 1000; echo ended-$((40+2))\n")
	time.Sleep(2 * time.Second)
	term.send("\x03") // Ctrl-C
	term.send("echo alive-$((40+2))\n")
	term.expect("alive-42")
	term.send("exit 9\n")
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("status %d, want 9", got)
	}
	check()
}

// consoleSocket listens for a terminal's master.
func consoleSocket(t *testing.T) (string, func() *tty) {
	t.Helper()
	dir, err := os.MkdirTemp("", "console") // a short path: a socket's has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path, func() *tty {
		t.Helper()
		_ = l.SetDeadline(time.Now().Add(time.Minute))
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		name, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
		if err != nil || n == 0 {
			t.Fatalf("console socket: %d bytes, %v", n, err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			t.Fatalf("console socket: %d control messages, %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("console socket: descriptors %v, %v", fds, err)
		}
		if err := unix.SetNonblock(fds[0], true); err != nil {
			t.Fatal(err)
		}
		return newTTY(t, os.NewFile(uintptr(fds[0]), string(name[:n])))
	}
}

func TestConsoleSocket(t *testing.T) {
	r := newRuntime(t)
	path, accept := consoleSocket(t)
	id, bundle := r.id(), r.bundle(withTerminal, "/bin/sh")
	r.run("create", "--bundle", bundle, id).want(t, 1, "", "without setting console socket")
	r.run("create", "--console-socket", path, "--bundle", r.sh("true"), id).want(t, 1, "", "cannot use console socket")
	readToEnd(t, r.command("create", "--console-socket", path, "--bundle", bundle, id))
	term := accept()
	r.run("start", id).want(t, 0, "", "")
	term.send("stty size; echo sum-$((40+2))\n")
	term.expect("sum-42")
	term.expect("# ") // before it prompts, the shell would lose what comes while it changes the terminal's mode
	term.send("\x04") // Ctrl-D
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
}

// readToEnd runs a command that says nothing, and reads its output to the end as containerd does: what it leaves running must not
// hold it.
func readToEnd(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.WaitDelay = 20 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %v, output %q", cmd.Args, err, out)
	}
}

func TestExec(t *testing.T) {
	r := newRuntime(t)
	id := r.id()
	r.run("run", "--detach", "--bundle", r.sh("while :; do sleep 0.1; done"), id).want(t, 0, "", "")
	process := filepath.Join(r.dir, "process.json")
	writeFile(t, process, `{"args":["/bin/sh","-c","echo $A-$(pwd)-$(id -u)"],"env":["A=file","PATH=/bin"],"cwd":"/etc","user":{"uid":5,"gid":6}}`)
	for _, tt := range []struct {
		args   []string
		status int
		out    string
	}{
		{[]string{"--user", "1000:1001", id, "/bin/sh", "-c", "id -u; id -g"}, 0, "1000\n1001\n"},
		{[]string{"--cwd", "/tmp", id, "/bin/pwd"}, 0, "/tmp\n"},
		{[]string{"--env", "X=y z", id, "/bin/sh", "-c", "echo $X"}, 0, "y z\n"},
		{[]string{"--additional-gids", "77", id, "/bin/sh", "-c", "grep Groups /proc/self/status"}, 0, "77"},
		{[]string{"--cap", "CAP_SYS_TIME", id, "/bin/sh", "-c", "grep CapBnd /proc/self/status"}, 0, "0000000022000420\n"},
		{[]string{"--no-new-privs", id, "/bin/grep", "NoNewPrivs", "/proc/self/status"}, 0, "1\n"},
		{[]string{"--process", process, id}, 0, "file-/etc-5\n"},
		{[]string{id, "/bin/sh", "-c", "exit 300"}, 44, ""},
	} {
		t.Run(strings.Join(tt.args[:1], " "), func(t *testing.T) {
			r.run(append([]string{"exec"}, tt.args...)...).want(t, tt.status, tt.out, "")
		})
	}
	t.Run("stdin", func(t *testing.T) {
		r.runInput([]byte("in"), "exec", id, "/bin/cat").want(t, 0, "in", "")
	})
	t.Run("terminal", func(t *testing.T) {
		term, slave := openPTY(t, 20, 70)
		cmd := r.command("exec", "-t", id, "/bin/sh")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		term.send("stty size; exit 4\n")
		term.expect("20 70")
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 4 {
			t.Errorf("status %d, want 4", got)
		}
	})
	t.Run("detach", func(t *testing.T) { execDetached(t, r, id) })
}

// execDetached checks that a detached exec's process lives and dies with its proxy.
func execDetached(t *testing.T, r *rt, id string) {
	path, accept := consoleSocket(t)
	pidFile := filepath.Join(r.dir, "exec.pid")
	readToEnd(t, r.command("exec", "--detach", "--tty", "--pid-file", pidFile, "--console-socket", path, id, "/bin/sh"))
	term := accept()
	term.send("echo pid-$((40+2)); exec sleep 4711\n")
	term.expect("pid-42")
	listed := func(want bool) {
		t.Helper()
		for range 100 {
			if strings.Contains(r.run("exec", id, "/bin/ps").out, "sleep 4711") == want {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("is the exec's process in the guest: want %v", want)
	}
	listed(true)
	if err := syscall.Kill(readPID(t, pidFile), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	listed(false)
}
