package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/guestkernel/initramfs"
	"github.com/govmm/govmm/runtime/agent"
)

// silentInit is PID 1 of a guest that says it has made a container and let it go, and answers nothing that it is asked from there on. Its
// end is a panic of the guest's kernel.
func silentInit() {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: agent.HostCID, Port: agent.Port}); err != nil {
		panic(err)
	}
	control := os.NewFile(uintptr(fd), "control")
	if _, err := (agent.StreamHeader{Control: true}).WriteTo(control); err != nil {
		panic(err)
	}
	_ = agent.Write(control, 0, &agent.Hello{})
	for {
		id, m, err := agent.Read(control, agent.Host)
		if err != nil {
			panic(err)
		}
		switch m.(type) {
		case *agent.Configure, *agent.CreateContainer, *agent.StartContainer:
			_ = agent.Write(control, id, &agent.Reply{})
		}
	}
}

// TestSilentGuest has a guest of its own that does not answer: no call but those for the container's own work waits for it for ever.
func TestSilentGuest(t *testing.T) {
	r := newRuntime(t)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, initramfs.ForInit(exe)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, "initrd")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	bundle := r.bundle(func(s *specs.Spec) { s.VM = &specs.VM{Kernel: specs.VMKernel{InitRD: path}} }, "/bin/true")
	id := r.id()
	r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("pause", id).want(t, 0, "", "")
	var calls sync.WaitGroup
	call := func(fails bool, args ...string) {
		calls.Go(func() {
			begin := time.Now()
			out, err := r.command(args...).CombinedOutput()
			if silent := strings.Contains(string(out), "the guest did not answer within 30s"); silent != fails || (err != nil) != fails {
				t.Errorf("%v: %v: %s", args, err, out)
			}
			if taken := time.Since(begin); taken < 25*time.Second || taken > 3*time.Minute {
				t.Errorf("%v took %v", args, taken)
			}
		})
	}
	call(false, "resume", id) // the guest runs again, whatever it says
	r.waitStatus(id, "running")
	call(true, "ps", id)
	call(true, "events", "--stats", id)
	call(true, "kill", id, "TERM")
	call(true, "update", "--pids-limit", "77", id)
	calls.Wait()
	var state specs.State
	if err := json.Unmarshal([]byte(r.run("state", id).out), &state); err != nil || state.Status != specs.StateRunning {
		t.Errorf("state %+v, %v", state, err)
	}
	r.run("kill", id, "KILL").want(t, 0, "", "")
	r.run("state", id).want(t, 0, `"status": "stopped"`, "")
	r.run("delete", id).want(t, 0, "", "")
}
