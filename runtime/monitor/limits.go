package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/agent/host"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/oci"
)

// limits are what a paused guest cannot be told or asked.
type limits struct {
	mu      sync.Mutex
	pending []*agent.Update   // come into force, one after the other, when the guest is resumed
	stats   map[string]string // of the moment at which the guest was paused
}

// pause stops the guest, whose use of memory and processes stays as it is from here on.
func (m *monitor) pause() error {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	// A guest that does not answer is paused all the same.
	answer := make(chan map[string]string, 1)
	go func() {
		stats, _ := m.askStats()
		answer <- stats
	}()
	var stats map[string]string
	select {
	case stats = <-answer:
	case <-time.After(time.Second):
	}
	if err := m.vm.Pause(); err != nil {
		return err
	}
	m.limits.stats = stats
	m.paused.Store(true)
	return nil
}

func (m *monitor) resume() error {
	if err := m.goOnWithLimits(); err != nil {
		return err
	}
	// The guest's clocks went on; this corrects what a host that slept itself left behind.
	err := m.guest.SetTime(time.Now().UnixNano())
	if errors.Is(err, host.ErrSilent) {
		m.log.Warn("the guest runs again, but its clock may be late", "error", err)
		return nil
	}
	return err
}

// goOnWithLimits ends a pause, and has the guest keep what an update has changed meanwhile.
func (m *monitor) goOnWithLimits() error {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	if !m.paused.Swap(false) {
		return control.ErrNotPaused
	}
	m.vm.Resume()
	for _, u := range m.limits.pending {
		err := m.guest.Update(u)
		if err != nil {
			m.log.Warn("a limit that was changed during the pause is not in force", "error", err)
		}
		if errors.Is(err, host.ErrSilent) {
			break
		}
	}
	m.limits.pending = nil
	return nil
}

// wait adds an update to those that wait. Each has all limits, but of the files that a config or an update names only its own: one
// before it stays if it has another file.
func (l *limits) wait(u *agent.Update) {
	l.pending = append(slices.DeleteFunc(l.pending, func(before *agent.Update) bool {
		return !slices.ContainsFunc(before.Resources.Files, func(f agent.File) bool {
			return !slices.ContainsFunc(u.Resources.Files, func(g agent.File) bool { return f.Name == g.Name })
		})
	}), u)
}

// update has the guest keep new limits, or only makes room for them, and returns what is to bound this process.
func (m *monitor) update(r *specs.LinuxResources, prepare bool) (int64, error) {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	u := &agent.Update{ID: m.cfg.ID, Resources: oci.GuestResources(r)}
	if limit := u.Resources.MemoryMax; limit > 0 && limit != m.memoryMax() {
		if err := m.makeRoom(uint64(limit)); err != nil {
			return 0, err
		}
	}
	if prepare {
		return m.bound(u), nil
	}
	if m.paused.Load() {
		m.limits.wait(u)
	} else if err := m.guest.Update(u); err != nil {
		return 0, err
	}
	return m.bound(u), nil
}

// bound is what is to bound this process: -1 is nothing, 0 what does so already.
func (m *monitor) bound(u *agent.Update) int64 {
	if u.Resources.MemoryMax <= 0 {
		return u.Resources.MemoryMax
	}
	return oci.Bound(m.cfg.Spec, m.vm.PluggedMemory())
}

// memoryMax is the limit that the guest was made for.
func (m *monitor) memoryMax() int64 { return oci.GuestResources(m.cfg.Spec.Linux.Resources).MemoryMax }

// stats returns the files in which the guest's kernel tells what the container uses.
func (m *monitor) stats() (map[string]string, error) {
	if m.paused.Load() {
		m.limits.mu.Lock()
		defer m.limits.mu.Unlock()
		return m.limits.stats, nil
	}
	return m.askStats()
}

func (m *monitor) askStats() (map[string]string, error) {
	files, err := m.guest.Stats(m.cfg.ID)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range files {
		out[f.Name] = f.Value
	}
	return out, nil
}

// doom is how this process has the host's kernel count a kill for want of memory: engines look into the host's cgroup for
// what happened in the guest's.
type doom struct{ swap, memory, score *os.File }

// openDoom opens what is out of sight after the pivot. Without a cgroup, or its memory controller, there is none.
func openDoom(dir string) *doom {
	if dir == "" {
		return nil
	}
	memory, err := os.OpenFile(filepath.Join(dir, "memory.max"), os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	d := &doom{memory: memory}
	d.swap, _ = os.OpenFile(filepath.Join(dir, "memory.swap.max"), os.O_WRONLY, 0)
	d.score, _ = os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	return d
}

// meet has the kernel kill this process, whose wait status then is what a shell calls 137. It returns if the kernel does not.
func (d *doom) meet() {
	if d == nil {
		return
	}
	write := func(f *os.File, text string) {
		if f != nil {
			_, _ = f.WriteString(text)
		}
	}
	write(d.score, "1000") // one that a config protects would not be killed
	write(d.swap, "0")     // nothing is to be rescued to a disk first
	if _, err := d.memory.WriteString("0"); err == nil {
		time.Sleep(10 * time.Millisecond)
	}
}
