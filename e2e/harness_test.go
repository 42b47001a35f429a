// Package e2e tests what users do, through the built govmm-run, on machines whose KVM runs guest kernels.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/testhost/need"
)

// needVM skips the test where no guest kernel can run.
func needVM(t *testing.T) {
	t.Helper()
	need.GuestKernels(t)
}

// binary returns the path of a built program.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("GOVMM_BIN")
	if dir == "" {
		dir = "../bin"
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return path
}

// scratch returns a directory on the test host's disk, or a temporary one.
func scratch(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/scratch"); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/scratch", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// rt is a runtime with a state root of its own.
type rt struct {
	t      *testing.T
	binary string
	root   string
	dir    string
}

func newRuntime(t *testing.T) *rt {
	t.Helper()
	needVM(t)
	dir := scratch(t)
	r := &rt{t: t, binary: binary(t, "govmm-run"), root: filepath.Join(dir, "state"), dir: dir}
	t.Cleanup(func() {
		for _, id := range strings.Fields(r.run("list", "-q").out) {
			r.run("delete", "--force", id)
		}
	})
	return r
}

// result is how a call ended.
type result struct {
	out, err string
	status   int
}

func (r *rt) command(args ...string) *exec.Cmd {
	return exec.Command(r.binary, append([]string{"--root", r.root}, args...)...)
}

func (r *rt) run(args ...string) result { return r.runInput(nil, args...) }

func (r *rt) runInput(in []byte, args ...string) result {
	r.t.Helper()
	return finish(r.t, r.command(args...), in)
}

// limitOf is how long a call may take, on a busy machine and emulated: a stream through a network as long as a thousand megabytes, run as long as a whole suite, create and exec as a boot or
// a piece of work, all others a little.
func limitOf(args []string) time.Duration {
	switch {
	case slices.Contains(args, clientName):
		return 15 * time.Minute
	case slices.Contains(args, "run"):
		return 5 * time.Minute
	case slices.Contains(args, "exec"), slices.Contains(args, "create"):
		return 3 * time.Minute
	}
	return 30 * time.Second
}

// finish runs a command to its end, within limitOf. Its output goes to files, not pipes: a monitor keeps the
// streams of the create that made it, and a pipe would not end before the container does.
func finish(t *testing.T, cmd *exec.Cmd, in []byte) result {
	t.Helper()
	out, errOut := outputFile(t), outputFile(t)
	cmd.Stdout, cmd.Stderr = out, errOut
	if in != nil {
		cmd.Stdin = bytes.NewReader(in)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := limitOf(cmd.Args)
	timer := time.AfterFunc(limit, func() {
		t.Logf("%v: not done after %v", cmd.Args, limit)
		_ = cmd.Process.Signal(syscall.SIGQUIT) // a Go program says where it stands
		time.Sleep(2 * time.Second)
		_ = cmd.Process.Kill()
	})
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	res := result{contents(t, out), contents(t, errOut), cmd.ProcessState.ExitCode()}
	t.Cleanup(func() {
		if late := contents(t, errOut)[len(res.err):]; t.Failed() && late != "" {
			t.Logf("%v wrote to stderr after it returned: %s", cmd.Args, late)
		}
		out.Close()
		errOut.Close()
	})
	return res
}

// outputFile makes a file without a name.
func outputFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp("", "e2e-output-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	return f
}

func contents(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// want checks a call's status and that its output holds a text; "" is not looked for.
func (res result) want(t *testing.T, status int, out, errText string) {
	t.Helper()
	if res.status != status || !strings.Contains(res.out, out) || !strings.Contains(res.err, errText) {
		t.Fatalf("status %d, stdout %q, stderr %q; want status %d, stdout with %q, stderr with %q",
			res.status, res.out, res.err, status, out, errText)
	}
}

// busyboxApplets are the programs that a busybox bundle has.
var busyboxApplets = strings.Fields("sh cat echo true false id ls ps kill sleep head tail wc dd grep stty tty mount umount " +
	"sha256sum ip ping mkdir rm ln touch chmod chown stat env pwd hostname nproc free date sed awk cut sort test od seq trap yes")

// bundle makes a busybox bundle whose process is args, changed by edit.
func (r *rt) bundle(edit func(*specs.Spec), args ...string) string {
	r.t.Helper()
	dir, err := os.MkdirTemp(r.dir, "bundle-")
	if err != nil {
		r.t.Fatal(err)
	}
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		r.t.Fatalf("%v: apt-get install busybox-static", err)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/busybox"), b, 0o755); err != nil {
		r.t.Fatal(err)
	}
	for _, applet := range busyboxApplets {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", applet)); err != nil {
			r.t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(rootfs, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.configure(dir, edit, args...)
	return dir
}

// configure writes the bundle's config: what spec writes, without a terminal, with a writable root, for args.
func (r *rt) configure(dir string, edit func(*specs.Spec), args ...string) {
	r.t.Helper()
	path := filepath.Join(dir, "config.json")
	_ = os.Remove(path)
	r.run("spec", "--bundle", dir).want(r.t, 0, "", "")
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		r.t.Fatal(err)
	}
	spec.Process.Terminal = false
	spec.Process.Args = args
	spec.Root.Readonly = false
	if edit != nil {
		edit(&spec)
	}
	fewCPUs(&spec)
	if b, err = json.Marshal(&spec); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// fewCPUs gives a guest whose test does not care one CPU in the test host: vCPUs that wait for each other there take turns on one
// emulated CPU. Tests that are about CPUs ask for some.
func fewCPUs(spec *specs.Spec) {
	if os.Getenv("GOVMM_TESTHOST") == "" || spec.Linux.Resources != nil && spec.Linux.Resources.CPU != nil {
		return
	}
	if _, asked := spec.Annotations[cpusAnnotation]; asked {
		return
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[cpusAnnotation] = "1"
}

const cpusAnnotation = "io.govmm.cpus"

// sh is a bundle that runs a shell script.
func (r *rt) sh(script string) string { return r.bundle(nil, "/bin/sh", "-c", script) }

// id returns a fresh container id.
func (r *rt) id() string { return fmt.Sprintf("c%d", time.Now().UnixNano()) }

// waitStatus waits until state says status.
func (r *rt) waitStatus(id, status string) {
	r.t.Helper()
	var last string
	for range 600 {
		last = r.run("state", id).out
		if strings.Contains(last, `"status": "`+status+`"`) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("container %s does not become %s: %s", id, status, last)
}
