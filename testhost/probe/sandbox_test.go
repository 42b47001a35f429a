package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// childEnv makes the test binary the monitor's stand-in: a process in new
// mount, PID and network namespaces that pivots to an empty root.
const childEnv = "GOVMM_PROBE_CHILD"

// Descriptors that the child inherits.
const (
	fileFD = 3 + iota
	cgroupFD
)

// plan is what the child is told.
type plan struct {
	Root string // an empty directory to pivot to
	Tree string // a directory to clone before that
}

const (
	greeting  = "from outside\n"
	memoryMax = 64 << 20
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintf(os.Stderr, "child: %v\n", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// requireTestHost skips elsewhere: the probes make mounts and cgroups.
func requireTestHost(t *testing.T) {
	t.Helper()
	if os.Getenv("GOVMM_TESTHOST") != "" {
		return
	}
	need.Lacking(t, need.TestHost, "the test host: go run ./testhost")
}

// TestSandboxedMonitor proves that a monitor that has left for namespaces and
// a root of its own keeps everything that it opened or cloned before.
func TestSandboxedMonitor(t *testing.T) {
	requireTestHost(t)
	base := t.TempDir()
	p := plan{Root: filepath.Join(base, "root"), Tree: filepath.Join(base, "tree")}
	for _, d := range []string{p.Root, p.Tree, p.Tree + "/sub", p.Tree + "/mounted"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, p.Tree+"/sub/file", greeting)
	mountTmpfs(t, p.Tree+"/mounted")
	write(t, p.Tree+"/mounted/hidden", greeting)
	write(t, base+"/state", greeting)
	state, err := os.OpenFile(base+"/state", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	cgroup := newCgroup(t)
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()

	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=" + string(text)}
	cmd.Stderr = &stderr
	cmd.ExtraFiles = []*os.File{state, dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	for file, want := range map[string]string{
		base + "/state":           greeting + "from inside\n",
		p.Tree + "/sub/created":   "from inside\n",
		cgroup + "/memory.max":    strconv.Itoa(memoryMax) + "\n",
		p.Tree + "/mounted/under": "",
	} {
		got, err := os.ReadFile(file)
		if err != nil && want != "" {
			t.Error(err)
		}
		if string(got) != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	// The child left this mark in the directory that the tmpfs covers here.
	if err := unix.Unmount(p.Tree+"/mounted", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Tree + "/mounted/under"); err != nil {
		t.Errorf("what was created below a mount point through the clone: %v", err)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mountTmpfs(t *testing.T, target string) {
	t.Helper()
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

func newCgroup(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/sys/fs/cgroup", "probe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove the cgroup: %v", err)
		}
	})
	return dir
}

// child runs every check and returns the first that fails.
func child(text string) error {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	proc, err := detachedProc()
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, p.Tree, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	if err := pivot(p.Root); err != nil {
		return err
	}
	return errors.Join(
		named("empty root", checkRoot()),
		named("open file", checkFile()),
		named("cgroup", checkCgroup()),
		named("procfs", checkProc(proc)),
		named("cloned tree", checkTree(tree)),
	)
}

func named(name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// detachedProc returns a procfs of this PID namespace that is mounted nowhere.
func detachedProc() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return fd, os.NewSyscallError("fsmount", err)
}

// pivot makes an empty, read-only tmpfs at dir the root and detaches the rest.
func pivot(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return unix.Chdir("/")
}

func checkRoot() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	if len(entries) != 0 {
		return fmt.Errorf("root holds %v, want nothing", entries)
	}
	if pid := os.Getpid(); pid != 1 {
		return fmt.Errorf("pid is %d, want 1", pid)
	}
	return nil
}

func checkFile() error {
	f := os.NewFile(fileFD, "state")
	got := make([]byte, len(greeting))
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if string(got) != greeting {
		return fmt.Errorf("read %q, want %q", got, greeting)
	}
	_, err := f.WriteAt([]byte("from inside\n"), int64(len(greeting)))
	return err
}

func checkCgroup() error {
	if err := writeAt(cgroupFD, "memory.max", unix.O_WRONLY, strconv.Itoa(memoryMax)); err != nil {
		return err
	}
	// 0 is the writer itself: no PID of an outer namespace is needed.
	if err := writeAt(cgroupFD, "cgroup.procs", unix.O_WRONLY, "0"); err != nil {
		return err
	}
	got, err := readAt(cgroupFD, "cgroup.procs")
	if err != nil {
		return err
	}
	if strings.TrimSpace(got) != "1" {
		return fmt.Errorf("cgroup.procs holds %q, want this process", got)
	}
	if got, err = readAt(cgroupFD, "memory.current"); err != nil {
		return err
	}
	if _, err := strconv.ParseUint(strings.TrimSpace(got), 10, 64); err != nil {
		return fmt.Errorf("memory.current: %w", err)
	}
	return nil
}

func checkProc(proc int) error {
	// A magic link opens the same file again, with an offset of its own.
	got, err := readAt(proc, fmt.Sprintf("self/fd/%d", fileFD))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, greeting) {
		return fmt.Errorf("the file opened again holds %q, want %q first", got, greeting)
	}
	net, err := readAt(proc, "self/net/dev")
	if err != nil {
		return err
	}
	if n := strings.Count(net, ":"); n != 1 || !strings.Contains(net, "lo:") {
		return fmt.Errorf("network devices %q, want lo only", net)
	}
	fd, err := unix.Openat(proc, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), "proc")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid != 1 {
			return fmt.Errorf("procfs shows process %d of another namespace", pid)
		}
	}
	if _, err := os.Stat("/proc/self"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("/proc/self by path: %v, want that it does not exist", err)
	}
	return nil
}

func checkTree(tree int) error {
	got, err := readAt(tree, "sub/file")
	if err != nil {
		return err
	}
	if got != greeting {
		return fmt.Errorf("sub/file holds %q, want %q", got, greeting)
	}
	if err := writeAt(tree, "sub/created", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, "from inside\n"); err != nil {
		return err
	}
	// The clone is not recursive: it has the mount point, not the mount.
	if _, err := readAt(tree, "mounted/hidden"); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("file of a mount below the tree: %v, want ENOENT", err)
	}
	if err := writeAt(tree, "mounted/under", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, "x"); err != nil {
		return err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if fd, err := unix.Openat2(tree, "../../../../sub/file", &how); err != nil {
		return os.NewSyscallError("openat2 in root", err)
	} else {
		unix.Close(fd)
	}
	// Nor does ".." leave it: the root of a detached mount has no parent.
	if _, err := readAt(tree, "../tree/sub/file"); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("path out of the tree: %v, want ENOENT", err)
	}
	return nil
}

func readAt(dir int, name string) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.String(), err
}

func writeAt(dir int, name string, flags int, content string) error {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
