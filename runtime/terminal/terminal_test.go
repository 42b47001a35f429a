package terminal

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ownArgv0 makes the test binary a session leader that calls Own, as monitors and proxies do.
const ownArgv0 = "test-own"

// hungUp is the status with which it ends after a hang-up.
const hungUp = 42

func TestMain(m *testing.M) {
	if os.Args[0] == ownArgv0 {
		slave, err := Own(os.Args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		// The master's holder types a line; the terminal is raw, so nothing comes back of itself.
		b := make([]byte, 5)
		if _, err := io.ReadFull(slave, b); err != nil {
			fmt.Println(err)
		}
		fmt.Printf("got %q\n", b) // standard output is the terminal, too
		_, _ = slave.Read(b)      // until the hang-up
		os.Exit(hungUp)
	}
	os.Exit(m.Run())
}

func ownCommand(path string) (*exec.Cmd, *bytes.Buffer) {
	cmd, out := exec.Command("/proc/self/exe"), &bytes.Buffer{}
	cmd.Args = []string{ownArgv0, path}
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, out
}

func open(t *testing.T) *Pair {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestRaw writes every byte through a pair, both ways.
func TestRaw(t *testing.T) {
	p := open(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, way := range []struct{ from, to *os.File }{{p.Master, p.Slave}, {p.Slave, p.Master}} {
		if _, err := way.from.Write(all); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(all))
		if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%s to %s: %q, %v", way.from.Name(), way.to.Name(), got, err)
		}
	}
}

func TestMakeRawAndRestore(t *testing.T) {
	p := open(t)
	before, err := unix.IoctlGetTermios(int(p.Slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cooked := *before
	cooked.Lflag |= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(p.Slave.Fd()), unix.TCSETS, &cooked); err != nil {
		t.Fatal(err)
	}
	old, err := MakeRaw(p.Slave)
	if err != nil {
		t.Fatal(err)
	}
	if err := Restore(p.Slave, old); err != nil {
		t.Fatal(err)
	}
	if after, err := unix.IoctlGetTermios(int(p.Slave.Fd()), unix.TCGETS); err != nil || after.Lflag != cooked.Lflag {
		t.Errorf("local flags %#x, %v, want %#x", after.Lflag, err, cooked.Lflag)
	}
}

func TestSize(t *testing.T) {
	p := open(t)
	want := Size{Rows: 25, Columns: 133}
	if err := SetSize(p.Master, want); err != nil {
		t.Fatal(err)
	}
	if got, ok := GetSize(p.Slave); !ok || got != want {
		t.Errorf("size %v, %v", got, ok)
	}
}

func TestNoTerminal(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := GetSize(f); ok {
		t.Error("/dev/null has a size")
	}
	if _, err := MakeRaw(f); err == nil || !strings.HasPrefix(err.Error(), "TCGETS: ") {
		t.Errorf("MakeRaw: %v", err)
	}
}

// listen makes a console socket whose path is longer than sun_path holds.
func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/tty", d.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l, filepath.Join(dir, "tty")
}

// receive takes a master as engines do.
func receive(t *testing.T, l *net.UnixListener) (master *os.File, name string) {
	t.Helper()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, oob := make([]byte, 100), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(text, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	if _, err := c.Read(text[n:]); err != io.EOF {
		t.Errorf("after the message: %v, want its end", err)
	}
	return os.NewFile(uintptr(fds[0]), "master"), string(text[:n])
}

// TestOwn types at a process whose controlling terminal was handed over, and hangs up.
func TestOwn(t *testing.T) {
	l, path := listen(t)
	cmd, out := ownCommand(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	master, name := receive(t, l)
	if !strings.HasPrefix(name, "/dev/pts/") {
		t.Errorf("name %q", name)
	}
	if _, err := master.WriteString("a\x03b\rc"); err != nil {
		t.Fatal(err)
	}
	want := `got "a\x03b\rc"` + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(master, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
	master.Close()
	// It lives to see the hang-up.
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != hungUp || out.Len() > 0 {
		t.Errorf("%v, output %q where it began", err, out)
	}
}

// TestOwnRefused has nobody take the master: the process is there to say so.
func TestOwnRefused(t *testing.T) {
	for path, want := range map[string]string{
		"/nope/tty":                       "console socket /nope/tty: no such file or directory\n",
		filepath.Join(t.TempDir(), "tty"): "no such file or directory\n",
		"/dev/null":                       "connection refused\n",
	} {
		cmd, out := ownCommand(path)
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(out.String(), "console socket "+path+": ") || !strings.HasSuffix(out.String(), want) {
			t.Errorf("%s: %v, output %q", path, err, out)
		}
	}
}
