package lifecycle

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/monitor"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/testhost/need"
)

// createArgv0 makes the test binary a govmm-run create, a process of its own that can be killed.
const createArgv0 = "test-create"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(monitor.IDVariable) != "":
		os.Exit(monitor.Main())
	case os.Getenv(ProxyVariable) != "":
		os.Exit(ProxyMain())
	case os.Args[0] == createArgv0:
		os.Exit(createMain(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func createMain(args []string) int {
	store, err := container.NewStore(args[0])
	if err != nil {
		return 3
	}
	r := &Runtime{Store: store, Log: slog.New(slog.DiscardHandler)}
	if err := r.Create(CreateOptions{Bundle: args[1], ID: args[2], ConsoleSocket: args[3]}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A host is a state root and a bundle whose guest, a real one, runs code in place of a kernel.
type host struct {
	t            *testing.T
	root, bundle string
	*Runtime
}

// The guests: one that never calls its monitor, and one that resets itself at once through the keyboard controller.
var (
	idle  = []byte{0xf4, 0xeb, 0xfd}             // hlt; jmp to it
	reset = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4} // mov al, 0xfe; out 0x64, al; hlt
)

// newHost needs KVM, but none that runs kernels natively, and the right to make namespaces.
func newHost(t *testing.T, code []byte, edit func(*specs.Spec)) *host {
	t.Helper()
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		need.Lacking(t, need.KVM, "KVM: %v", err)
	}
	f.Close()
	if err := exec.Command("unshare", "-m", "-p", "-f", "true").Run(); err != nil {
		need.Lacking(t, need.RootUser, "the right to make namespaces: unshare: %v", err)
	}
	dir := t.TempDir()
	h := &host{t: t, root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	store, err := container.NewStore(h.root)
	if err != nil {
		t.Fatal(err)
	}
	h.Runtime = &Runtime{Store: store, Log: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(filepath.Join(h.bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := oci.Example()
	spec.Process.Terminal = false
	spec.Annotations = map[string]string{oci.AnnotationMemory: "64M", oci.AnnotationCPUs: "1"}
	kernel, initrd := filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	h.write(kernel, tinyKernel(code))
	h.write(initrd, []byte("070701"))
	spec.VM = &specs.VM{Kernel: specs.VMKernel{Path: kernel, InitRD: initrd}}
	if edit != nil {
		edit(spec)
	}
	config, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	h.write(filepath.Join(h.bundle, oci.ConfigFile), config)
	return h
}

func (h *host) write(path string, b []byte) {
	h.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// tinyKernel is an ELF executable of one segment, entered in 64-bit mode.
func tinyKernel(code []byte) []byte {
	const headers, base = 64 + 56, 0x20_0000
	le := binary.LittleEndian
	b := make([]byte, headers, headers+len(code))
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)  // ET_EXEC
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint64(b[24:], base)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	segment := b[64:]
	le.PutUint32(segment, 1) // PT_LOAD
	le.PutUint64(segment[8:], headers)
	le.PutUint64(segment[24:], base)
	le.PutUint64(segment[32:], uint64(len(code)))
	le.PutUint64(segment[40:], uint64(len(code)))
	return append(b, code...)
}

// creation is a create under way in a process of its own.
type creation struct {
	*exec.Cmd
	h      *host
	id     string
	stderr *os.File
}

func (h *host) startCreate(id, consoleSocket string, change func(*exec.Cmd)) *creation {
	h.t.Helper()
	c := &creation{Cmd: exec.Command("/proc/self/exe"), h: h, id: id}
	c.Args = []string{createArgv0, h.root, h.bundle, id, consoleSocket}
	var err error
	if c.stderr, err = os.CreateTemp(h.t.TempDir(), "stderr"); err != nil {
		h.t.Fatal(err)
	}
	c.Stderr = c.stderr
	if change != nil {
		change(c.Cmd)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		c.stderr.Close()
		for _, pid := range monitors(h.t, id) {
			h.t.Errorf("monitor %d is left behind", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return c
}

// end waits for the create's end and returns its status and what it said.
func (c *creation) end() (int, string) {
	c.h.t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = c.Process.Signal(unix.SIGQUIT) })
	defer timer.Stop()
	_ = c.Wait()
	text, err := io.ReadAll(io.NewSectionReader(c.stderr, 0, 1<<20))
	if err != nil {
		c.h.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(text)
}

// monitors lists the monitors of id that live.
func monitors(t *testing.T, id string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, dir := range dirs {
		b, err := os.ReadFile(dir + "/environ") // empty for a zombie
		if err != nil || !strings.HasPrefix(string(b), monitor.IDVariable+"="+id+"\x00") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(dir, "/proc/%d", &pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// within waits until ok.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// waitMonitor waits until the create has its monitor, in its sandbox and with its VM, and returns its pid.
func (c *creation) waitMonitor() int {
	c.h.t.Helper()
	var pid int
	within(c.h.t, 20*time.Second, "a monitor with a VM", func() bool {
		pids := monitors(c.h.t, c.id)
		if len(pids) != 1 {
			return false
		}
		pid = pids[0]
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "anon_inode:kvm-vcpu") {
				return true
			}
		}
		return false
	})
	return pid
}

// nothingLeft checks that neither a monitor nor a state is left.
func (h *host) nothingLeft(id string) {
	h.t.Helper()
	within(h.t, 5*time.Second, "the monitor's end", func() bool { return len(monitors(h.t, id)) == 0 })
	entries, err := os.ReadDir(h.root)
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		h.t.Errorf("state %s is left behind", e.Name())
	}
}
