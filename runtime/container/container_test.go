package container

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := NewStore(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, id string) *Container {
	t.Helper()
	c, err := s.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// process starts a process that stands for a monitor.
func process(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// record makes cmd the container's monitor.
func record(t *testing.T, c *Container, cmd *exec.Cmd) {
	t.Helper()
	start, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c.State.PID, c.State.StartTime = cmd.Process.Pid, start
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
}

func TestIDs(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"", ".", "..", "a/b", "/a", "../a", "a b", "a\n", "a\x00", "ä", strings.Repeat("x", 256)} {
		if _, err := s.Create(id); !errors.Is(err, ErrID) {
			t.Errorf("Create(%q): %v, want %v", id, err, ErrID)
		}
		if _, err := s.Load(id); !errors.Is(err, ErrID) {
			t.Errorf("Load(%q): %v, want %v", id, err, ErrID)
		}
	}
	for _, id := range []string{"a", "A_1+-.", "...", strings.Repeat("x", 255)} {
		create(t, s, id).Unlock()
	}
}

func TestStateSurvives(t *testing.T) {
	s := newStore(t)
	c := create(t, s, "c")
	c.State.Bundle, c.State.Created = "/b", time.Now().UTC()
	c.State.Annotations = map[string]string{"k": "v"}
	record(t, c, process(t))
	c.Unlock()
	got, err := s.Load("c")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.State, got.State); diff != "" {
		t.Error(diff)
	}
}

// TestStatus goes through the life of a container, judged by a process that really lives and dies.
func TestStatus(t *testing.T) {
	s := newStore(t)
	c := create(t, s, "c")
	status := func(want Status) {
		t.Helper()
		other, err := s.Load("c")
		if err != nil {
			t.Fatal(err)
		}
		if got := other.Status(); got != want {
			t.Errorf("status %s, want %s", got, want)
		}
	}
	status(Creating)
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	status(Creating)
	cmd := process(t)
	record(t, c, cmd)
	c.Unlock()
	status(Created)
	for _, step := range []struct {
		started, paused bool
		want            Status
	}{{false, true, Paused}, {true, false, Running}, {true, true, Paused}} {
		c.State.Started, c.State.Paused = step.started, step.paused
		if err := c.Save(); err != nil {
			t.Fatal(err)
		}
		status(step.want)
	}
	// A start that records and does not come to do it.
	c.State.Started, c.State.Paused = true, false
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	held, err := c.Hold()
	if err != nil {
		t.Fatal(err)
	}
	status(Created)
	for _, step := range []struct {
		do   func(*os.File) error
		want Status
	}{{Release, Running}, {HoldAgain, Created}, {(*os.File).Close, Running}} {
		if err := step.do(held); err != nil {
			t.Fatal(err)
		}
		status(step.want)
	}
	c.State.Paused = true
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// It stays a zombie until its parent, this test, waits for it; not every PID 1 does.
	for range 500 {
		if state, _, err := procStat(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		} else if state == 'Z' {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	status(Stopped)
	_ = cmd.Wait()
	status(Stopped)
	// A process that came to the same pid later is another one.
	other := process(t)
	record(t, c, other)
	status(Paused)
	c.State.StartTime--
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	status(Stopped)
}

// TestCreateDied has the lock of a create go with its process.
func TestCreateDied(t *testing.T) {
	s := newStore(t)
	c := create(t, s, "c")
	other, err := s.Load("c")
	if err != nil {
		t.Fatal(err)
	}
	if other.Abandoned() {
		t.Error("abandoned while its create lives")
	}
	c.Unlock()
	if !other.Abandoned() || other.Status() != Stopped {
		t.Errorf("abandoned %v, status %s after its create died", other.Abandoned(), other.Status())
	}
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	defer other.Unlock()
	if !other.Abandoned() || other.Status() != Stopped {
		t.Errorf("abandoned %v, status %s to the one who holds its lock", other.Abandoned(), other.Status())
	}
}

func TestCreateRace(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 20 {
		wg.Go(func() {
			c, err := s.Create("c")
			if err != nil {
				if !errors.Is(err, ErrExist) {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			won++
			c.Unlock()
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d creates of one id succeeded", won)
	}
}

// TestLockOfDeleted has a call wait for the lock of a container that is deleted, and made anew, meanwhile.
func TestLockOfDeleted(t *testing.T) {
	s := newStore(t)
	for _, again := range []bool{false, true} {
		c := create(t, s, "c")
		waiter, err := s.Load("c")
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- waiter.Lock() }()
		time.Sleep(20 * time.Millisecond) // most likely it waits by now; it must come out right if not
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		if !again {
			c.Unlock()
			if err := <-result; !errors.Is(err, ErrNotExist) {
				t.Errorf("lock of a deleted container: %v", err)
			}
			continue
		}
		anew := create(t, s, "c")
		c.Unlock()
		select {
		case err := <-result:
			t.Fatalf("locked a container that its create holds: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		anew.Unlock()
		if err := <-result; err != nil {
			t.Error(err)
		}
		waiter.Unlock()
	}
}

// TestCreateAgainstDelete deletes what looks like the rest of a dead create, while creates are at work.
func TestCreateAgainstDelete(t *testing.T) {
	s := newStore(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := s.Load("c")
			if err != nil || c.Lock() != nil {
				continue
			}
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
			c.Unlock()
		}
	})
	for range 300 {
		c, err := s.Create("c")
		if errors.Is(err, ErrExist) {
			continue // the one before has not been deleted yet
		}
		if err != nil {
			t.Fatal(err)
		}
		// Whoever has the lock has the directory.
		if err := c.Save(); err != nil {
			t.Fatal(err)
		}
		c.Unlock()
	}
	close(stop)
	wg.Wait()
}

func TestDamaged(t *testing.T) {
	s := newStore(t)
	create(t, s, "good").Unlock()
	c := create(t, s, "bad")
	c.Unlock()
	for _, text := range []string{"", "{", "[]", `{"pid": "x"}`, "\x00\x00"} {
		if err := os.WriteFile(filepath.Join(c.Dir(), stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load("bad"); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), `"govmm-run delete --force bad" removes it`) {
			t.Errorf("%q: %v", text, err)
		}
		all, err := s.List()
		if len(all) != 1 || all[0].State.ID != "good" || !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: list has %d, %v", text, len(all), err)
		}
	}
}

// TestListForeign has things in the state root that are no containers.
func TestListForeign(t *testing.T) {
	s := newStore(t)
	if all, err := s.List(); len(all) != 0 || err != nil {
		t.Errorf("no state root: %v, %v", all, err)
	}
	create(t, s, "b").Unlock()
	create(t, s, "a").Unlock()
	if err := os.WriteFile(filepath.Join(s.root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.root, "no id"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].State.ID != "a" || all[1].State.ID != "b" {
		t.Errorf("list: %v, %v", all, err)
	}
}

// TestSaveFails leaves the old state and nothing else. Whatever stands in the way of the new file does: a directory does
// for root too.
func TestSaveFails(t *testing.T) {
	s := newStore(t)
	c := create(t, s, "c")
	defer c.Unlock()
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(c.Dir(), stateFile+".new")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	c.State.Started = true
	if err := c.Save(); err == nil {
		t.Fatal("saved to a directory")
	}
	other, err := s.Load("c")
	if err != nil || other.State.Started {
		t.Errorf("state %+v, %v: not the old one", other.State, err)
	}
}
