package sandbox

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// enterEnv has this test binary enter a sandbox, in namespaces of its own, and answer questions about it.
const enterEnv = "SANDBOX_TEST_ENTER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(enterEnv); dir != "" {
		answer(dir)
		return
	}
	os.Exit(m.Run())
}

// look is what the sandboxed process sees at a path: below the descriptor of an export, or, with From -1, in the engines' view.
type look struct {
	From  int
	Path  string
	Names []string
	Err   string
}

var steps = []Step{
	{Kind: Proc, Target: "/proc"},
	{Kind: Bind, Source: "volume", Target: "/recursive", Recursive: true},
	{Kind: Bind, Source: "volume", Target: "/single"},
	{Kind: Bind, Source: "volume/file", Target: "/etc/file", ReadOnly: true},
	{Kind: Cover, Target: "/dev/shm"},
	{Kind: Bind, Source: "socket", Target: "/etc/recursive.sock", Recursive: true},
	{Kind: Bind, Source: "socket", Target: "/etc/single.sock"},
	{Kind: Bind, Source: "volume/file", Target: "/etc/aside/resolv.conf"},
	{Kind: Bind, Source: "volume", Target: "/loose"},
	{Kind: Bind, Source: "volume", Target: "/out/below"},
}

// answer enters the sandbox and then reads questions from stdin.
func answer(dir string) {
	mine := slices.Clone(steps)
	for i := range mine {
		mine[i].Source = filepath.Join(dir, mine[i].Source)
	}
	tree, err := Enter(filepath.Join(dir, "root"), mine, func() error { return nil })
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("entered")
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var l look
		if in.Decode(&l) != nil {
			return
		}
		at := unix.AT_FDCWD
		switch {
		case l.From == 0:
			at = int(tree.Root.Fd())
		case l.From > 0:
			at = int(tree.Sources[l.From-1].Fd())
		}
		if l.Path == dial {
			l.Names, l.Err = dialSource(tree, l.From-1)
		} else {
			l.Names, l.Err = list(at, l.Path)
		}
		_ = out.Encode(l)
	}
}

// dial, in place of a path, asks for what a server says to who connects to the source.
const dial = "dial"

func dialSource(tree *Tree, i int) ([]string, string) {
	s, err := tree.Socket(i)
	if err != nil {
		return nil, err.Error()
	}
	c, err := s.Dial()
	if err != nil {
		return nil, err.Error()
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return nil, err.Error()
	}
	return []string{string(b)}, ""
}

func list(at int, path string) ([]string, string) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err.Error()
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	names, err := f.Readdirnames(0)
	if err != nil {
		return nil, err.Error()
	}
	slices.Sort(names)
	return names, ""
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mountTmpfs(t *testing.T, dir, file string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	check(t, os.WriteFile(filepath.Join(dir, file), nil, 0o644))
}

// prepare makes a root file system and a volume, each with a file system mounted on it. The volume's mounts propagate, as those of a
// host do that systemd has set up.
func prepare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"root/proc", "root/etc", "volume/plain"} {
		check(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	// Links that lead nowhere yet, as an image's /etc/resolv.conf: the way is made, in the image.
	check(t, os.MkdirAll(filepath.Join(dir, "root/usr/etc"), 0o755))
	for name, to := range map[string]string{
		"etc/aside": "/usr/etc/", "usr/etc/resolv.conf": "../run/stub/resolv.conf", "loose": "next", "next": "/far//dir", "out": "../../../up",
	} {
		check(t, os.Symlink(to, filepath.Join(dir, "root", name)))
	}
	volume := filepath.Join(dir, "volume")
	check(t, unix.Mount(volume, volume, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	check(t, unix.Mount("", volume, "", unix.MS_SHARED, ""))
	check(t, os.WriteFile(filepath.Join(volume, "file"), nil, 0o644))
	mountTmpfs(t, filepath.Join(dir, "root/mounted"), "hidden")
	mountTmpfs(t, filepath.Join(volume, "early"), "early-file")
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("served"))
			c.Close()
		}
	}()
	return dir
}

type inside struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

// enter starts the process in the sandbox.
func enter(t *testing.T, dir string) *inside {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), enterEnv+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "entered\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return &inside{t: t, in: json.NewEncoder(in), out: json.NewDecoder(io.Reader(r))}
}

// expect asks for the names at a path. from is 0 for the root file system's export, n for the source of step n-1, -1 for the view.
func (s *inside) expect(from int, path string, want ...string) {
	s.t.Helper()
	check(s.t, s.in.Encode(look{From: from, Path: path}))
	var l look
	check(s.t, s.out.Decode(&l))
	if l.Err != "" || !slices.Equal(l.Names, want) {
		s.t.Errorf("%s from %d: %q %s, want %q", path, from, l.Names, l.Err, want)
	}
}

const (
	rootExport, recursive, single = 0, 2, 3
	engines                       = -1
)

// TestTrees: what the guest gets and what engines see are two trees. Contract: E5.
func TestTrees(t *testing.T) {
	need.Root(t)
	dir := prepare(t)
	s := enter(t, dir)
	s.expect(rootExport, "proc")
	s.expect(rootExport, "mounted")
	s.expect(rootExport, "dev/shm")
	s.expect(rootExport, "recursive")
	s.expect(recursive, ".", "early", "file", "plain")
	s.expect(recursive, "early", "early-file")
	s.expect(single, ".", "early", "file", "plain")
	s.expect(single, "early")

	s.expect(engines, "/mounted", "hidden")
	s.expect(engines, "/recursive/early", "early-file")
	s.expect(engines, "/single/early")
	s.expect(engines, "/dev/shm")

	s.expect(engines, "/usr/run/stub", "resolv.conf")
	s.expect(engines, "/far/dir", "early", "file", "plain")
	s.expect(engines, "/up/below", "early", "file", "plain")
	s.expect(rootExport, "usr/run/stub", "resolv.conf")

	s.expect(6, dial, "served")
	s.expect(7, dial, "served")

	mountTmpfs(t, filepath.Join(dir, "volume/late"), "late-file")
	s.expect(recursive, "late", "late-file")
	s.expect(single, "late")
	check(t, unix.Unmount(filepath.Join(dir, "volume/late"), 0))
	s.expect(recursive, "late")
	check(t, unix.Unmount(filepath.Join(dir, "volume/early"), 0))
	s.expect(recursive, "early")
}

// TestProcOnLink has an image not choose where the procfs comes to lie.
func TestProcOnLink(t *testing.T) {
	need.Root(t)
	dir := prepare(t)
	check(t, os.Remove(filepath.Join(dir, "root/proc")))
	check(t, os.Symlink("/aside", filepath.Join(dir, "root/proc")))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), enterEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	out, err := cmd.Output()
	if want := "mount \"/proc\": filesystem \"proc\" must be mounted on ordinary directory\n"; err == nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
	if _, err := os.Lstat(filepath.Join(dir, "root/aside")); !os.IsNotExist(err) {
		t.Errorf("something was made where the link leads: %v", err)
	}
}
