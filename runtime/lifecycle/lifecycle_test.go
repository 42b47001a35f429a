package lifecycle

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
)

func newRuntime(t *testing.T) *Runtime {
	t.Helper()
	store, err := container.NewStore(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return &Runtime{Store: store, Log: slog.New(slog.DiscardHandler)}
}

// deaf records a container whose monitor, a real process, does not answer: it has no socket, or one that nobody reads.
func (r *Runtime) deaf(t *testing.T, id string, edit func(*container.State)) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c, err := r.Store.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Unlock()
	c.State.PID = cmd.Process.Pid
	if c.State.StartTime, err = container.StartTime(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	edit(&c.State)
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func running(s *container.State) { s.Started = true }

// TestUnknown has every operation on an id that nobody has.
func TestUnknown(t *testing.T) {
	r := newRuntime(t)
	_, execErr := r.Exec(ExecOptions{ID: "none"})
	_, pidsErr := r.HostProcesses("none")
	_, psErr := r.Processes("none")
	_, stateErr := r.State("none")
	for what, err := range map[string]error{
		"start": r.Start("none"), "kill": r.Kill("none", unix.SIGTERM, false), "delete": r.Delete("none", false),
		"pause": r.Pause("none"), "resume": r.Resume("none"), "exec": execErr, "ps": psErr, "pids": pidsErr, "state": stateErr,
	} {
		if !errors.Is(err, container.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Delete("none", true); err != nil {
		t.Errorf("delete --force: %v", err)
	}
}

// TestRefusals has every operation in the states in which it is refused.
func TestRefusals(t *testing.T) {
	r := newRuntime(t)
	r.deaf(t, "created", func(*container.State) {})
	r.deaf(t, "running", running)
	r.deaf(t, "paused", func(s *container.State) { s.Started, s.Paused = true, true })
	r.deaf(t, "earlypaused", func(s *container.State) { s.Paused = true })
	stopped := r.deaf(t, "stopped", running)
	_ = stopped.Process.Kill()
	_ = stopped.Wait()
	c, err := r.Store.Create("creating")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Unlock()

	exec := func(id string) error { _, err := r.Exec(ExecOptions{ID: id}); return err }
	ps := func(id string) error { _, err := r.Processes(id); return err }
	kill := func(id string) error { return r.Kill(id, unix.SIGKILL, false) }
	remove := func(id string) error { return r.Delete(id, false) }
	// As under runc, ps of a stopped container lists nothing.
	if list, err := r.Processes("stopped"); len(list) != 0 || err != nil {
		t.Errorf("ps of stopped: %v, %v", list, err)
	}
	if list, err := r.HostProcesses("stopped"); len(list) != 0 || err != nil {
		t.Errorf("host processes of stopped: %v, %v", list, err)
	}
	if err := r.Kill("stopped", unix.SIGKILL, true); err != nil {
		t.Errorf("kill --all of stopped: %v", err)
	}
	for _, tt := range []struct {
		what string
		op   func(string) error
		id   string
		want string
	}{
		{"start", r.Start, "running", "cannot start an already running container"},
		{"start", r.Start, "paused", "cannot start a container in the paused state"},
		{"start", r.Start, "earlypaused", "cannot start a container in the paused state"},
		{"start", r.Start, "stopped", "cannot start a container that has stopped"},
		{"kill", kill, "stopped", "container not running"},
		{"kill", kill, "creating", "container not running"},
		{"delete", remove, "running", "cannot delete container running that is not stopped: running"},
		{"delete", remove, "paused", "cannot delete container paused that is not stopped: paused"},
		{"pause", r.Pause, "paused", "container not running"},
		{"pause", r.Pause, "stopped", "container not running"},
		{"resume", r.Resume, "created", "container not paused"},
		{"resume", r.Resume, "running", "container not paused"},
		{"resume", r.Resume, "stopped", "container not paused"},
		{"exec", exec, "stopped", "exec failed: cannot exec in a stopped container"},
		{"exec", exec, "creating", "exec failed: cannot exec in a stopped container"},
		{"exec", exec, "paused", "exec failed: cannot exec in a paused container (use --ignore-paused to override)"},
		{"ps", ps, "creating", "container not running"},
		{"ps", ps, "paused", "the guest of a paused container does not answer: resume it, or use ps --format json for the host's process"},
	} {
		if err := tt.op(tt.id); err == nil || err.Error() != tt.want {
			t.Errorf("%s of %s: %v, want %q", tt.what, tt.id, err, tt.want)
		}
	}
}

// TestFailedCallChangesNothing calls monitors that do not answer: the state goes on saying what is true.
func TestFailedCallChangesNothing(t *testing.T) {
	r := newRuntime(t)
	r.deaf(t, "created", func(*container.State) {})
	r.deaf(t, "running", running)
	r.deaf(t, "paused", func(s *container.State) { s.Started, s.Paused = true, true })
	for id, op := range map[string]func(string) error{"created": r.Start, "running": r.Pause, "paused": r.Resume} {
		if err := op(id); err == nil || !strings.Contains(err.Error(), "control socket: ") {
			t.Errorf("%s: %v", id, err)
		}
		if c, err := r.State(id); err != nil || c.Status() != container.Status(id) {
			t.Errorf("%s is %s afterwards, %v", id, c.Status(), err)
		}
	}
}

// TestKillAlwaysWorks kills, with SIGKILL, monitors that do not answer.
func TestKillAlwaysWorks(t *testing.T) {
	r := newRuntime(t)
	noSocket := r.deaf(t, "nosocket", running)
	noReader := r.deaf(t, "noreader", running)
	c, err := r.State("noreader")
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(c.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for id, cmd := range map[string]*exec.Cmd{"nosocket": noSocket, "noreader": noReader} {
		if err := r.Kill(id, unix.SIGKILL, false); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		_ = cmd.Wait()
		if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
			t.Errorf("%s: ended with %v", id, s)
		}
		if err := r.Delete(id, false); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestReserveRace has many creates meet what one that died has left: one at a time gets the id.
func TestReserveRace(t *testing.T) {
	r := newRuntime(t)
	dead, err := r.Store.Create("c")
	if err != nil {
		t.Fatal(err)
	}
	dead.Unlock()
	var holders, won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 400 {
				c, err := r.reserve("c")
				if errors.Is(err, container.ErrExist) {
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d creates have the id", n)
				}
				won.Add(1)
				if entries, err := os.ReadDir(c.Dir()); err != nil || len(entries) != 0 {
					t.Errorf("the new container's directory holds %v, %v", entries, err)
				}
				if err := c.Save(); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
				holders.Add(-1)
				if won.Load()%2 == 0 {
					_ = c.Remove() // else it dies
				}
				c.Unlock()
			}
		})
	}
	wg.Wait()
	if won.Load() == 0 {
		t.Error("nobody got the id")
	}
}

// TestDeleteForce ends what runs.
func TestDeleteForce(t *testing.T) {
	r := newRuntime(t)
	cmd := r.deaf(t, "c", running)
	if err := r.Delete("c", true); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := r.State("c"); !errors.Is(err, container.ErrNotExist) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestDamagedState can be deleted by force only.
func TestDamagedState(t *testing.T) {
	r := newRuntime(t)
	c, err := r.Store.Create("c")
	if err != nil {
		t.Fatal(err)
	}
	c.Unlock()
	l, err := control.Listen(c.Dir()) // as a monitor that was killed leaves it
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(filepath.Join(c.Dir(), "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete("c", false); !errors.Is(err, container.ErrDamaged) {
		t.Errorf("delete: %v", err)
	}
	if err := r.Delete("c", true); err != nil {
		t.Errorf("delete --force: %v", err)
	}
	if _, err := r.State("c"); !errors.Is(err, container.ErrNotExist) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStatusOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), 1},
		{ExecFailed(errors.New("x")), 255},
		{fmt.Errorf("outer: %w", ExecFailed(errors.New("x"))), 255},
		{RunFailed(errors.New("no such file or directory")), 1},
		{RunFailed(errors.New(`exec: "x": stat x: no such file or directory`)), 127},
		{RunFailed(errors.New(`exec: "x": executable file not found in $PATH`)), 127},
		{RunFailed(errors.New(`exec: "x": permission denied`)), 126},
		{RunFailed(errors.New(`exec: "x": exec format error`)), 1},
	} {
		if got := StatusOf(tt.err); got != tt.want {
			t.Errorf("%q: status %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "kill -9 $$": 137} {
		cmd := exec.Command("sh", "-c", script)
		_ = cmd.Run()
		if got := ExitStatus(cmd.ProcessState.Sys().(syscall.WaitStatus)); got != want {
			t.Errorf("%q: status %d, want %d", script, got, want)
		}
	}
}
