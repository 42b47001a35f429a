package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/cgroup"
	"github.com/govmm/govmm/runtime/specjson"
)

// Status is an OCI status, or runc's "paused".
type Status string

// The states of a container (runtime-spec, runtime.md: state).
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// State is what state.json holds.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       string            `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// PID is the monitor's, as the host sees it; StartTime (clock ticks since boot) tells it from a later process.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Started   bool   `json:"started"`
	Paused    bool   `json:"paused"`
	Terminal  bool   `json:"terminal"`
	// Cgroup is what was made for the monitor, to be removed with it; nil if nothing was.
	Cgroup *cgroup.Group `json:"cgroup,omitempty"`
	// Hooks are the config's: those of start and delete run whatever became of the bundle.
	Hooks *specs.Hooks `json:"hooks,omitempty"`
	// Resources are the limits in force: the config's until an update.
	Resources *specs.LinuxResources `json:"resources,omitempty"`
}

func (s *State) view(d specjson.Direction) any {
	type state State
	return &struct {
		*state
		Hooks     any                                    `json:"hooks,omitempty"`
		Resources specjson.Section[specs.LinuxResources] `json:"resources,omitzero"`
	}{(*state)(s), specjson.Field(d, &s.Hooks), specjson.Resources(&s.Resources)}
}

// Container is one container of a Store.
type Container struct {
	State State
	dir   string
	lock  *os.File
}

// Dir returns the container's state directory.
func (c *Container) Dir() string { return c.dir }

// Save writes the state so that a reader sees either the old or the new one, whole.
func (c *Container) Save() error {
	b, err := json.Marshal(c.State.view(specjson.Write))
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, stateFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		_ = os.Remove(path + ".new")
		return fmt.Errorf("state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		_ = os.Remove(path + ".new")
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Reload reads the state again, after Lock was waited for.
func (c *Container) Reload() error {
	if err := c.read(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (c *Container) read() error {
	b, err := os.ReadFile(filepath.Join(c.dir, stateFile))
	if err != nil {
		return err
	}
	var s State
	if err := json.Unmarshal(b, s.view(specjson.Read)); err != nil {
		return fmt.Errorf("%w: %s: %w: \"govmm-run delete --force %s\" removes it", ErrDamaged, c.State.ID, err, c.State.ID)
	}
	c.State = s
	return nil
}

// Status says what the container is doing, judged by its monitor: a monitor that died or is a zombie is a container
// that stopped, whatever the file says.
func (c *Container) Status() Status {
	s := &c.State
	switch {
	case s.PID == 0 && c.beingCreated():
		return Creating
	case s.PID == 0 || !alive(s.PID, s.StartTime):
		return Stopped
	case s.Paused:
		return Paused
	case !s.Started || c.held():
		return Created
	}
	return Running
}

// heldFile is locked while the container's process is held back, as runc's exec.fifo is there: a start that was killed may have recorded
// what it did not do any more.
const heldFile = "held"

// Hold holds the container's process back: the lock of the file that it returns lasts until Release, or the end of the last process that
// has the file.
func (c *Container) Hold() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, heldFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := HoldAgain(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Release says that the process is held back no more.
func Release(held *os.File) error { return os.NewSyscallError("flock", flock(held, unix.LOCK_UN)) }

// HoldAgain takes Release back.
func HoldAgain(held *os.File) error { return os.NewSyscallError("flock", flock(held, unix.LOCK_EX)) }

func (c *Container) held() bool {
	f, err := os.Open(filepath.Join(c.dir, heldFile))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Abandoned says whether the create of the container died before it had a monitor to record.
func (c *Container) Abandoned() bool { return c.State.PID == 0 && !c.beingCreated() }

// beingCreated says whether a create is at work on a container without a monitor: it holds the lock all the time.
func (c *Container) beingCreated() bool {
	if c.lock != nil {
		return false // whoever waited for the lock has outlived the create
	}
	f, err := os.Open(c.dir)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// StartTime returns when pid started, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	_, start, err := procStat(pid)
	return start, err
}

func alive(pid int, startTime uint64) bool {
	state, start, err := procStat(pid)
	return err == nil && start == startTime && state != 'Z' && state != 'X'
}

// procStat reads the state letter and the start time of a process (proc(5): fields 3 and 22 of /proc/pid/stat).
func procStat(pid int) (state byte, startTime uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The command name may hold spaces and parentheses: the fields after it start behind the last ')'.
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	startTime, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], startTime, err
}
