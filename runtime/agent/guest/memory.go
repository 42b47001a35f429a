package guest

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// The host gives a guest more memory when it asks, up to a maximum (virtio-mem), and PID 1 asks in time. What tells it is
// memory.high of the cgroup above all containers, where none sees it: when the containers use more, the kernel reclaims
// and slows them down, gently at first, and counts it in memory.events, of which inotify tells. So a program that takes
// memory as fast as it can waits for the host instead of meeting the kernel's OOM killer, and an idle guest wakes nobody.

const (
	// growTime is how long more memory may take to come, on slow emulated hosts too. After that nobody is held back.
	growTime = 10 * time.Second
	growPoll = 5 * time.Millisecond
	// calmTime is between two looks at what the kernel reports, when there was no reason to ask for more.
	calmTime = 100 * time.Millisecond
	// refaults is how many pages of files come back from disk soon after they were reclaimed, between two looks, when
	// caches are too small.
	refaults = 4096
	// maxHeadroom bounds what is kept from containers for the kernel, which needs memory to take in more.
	maxHeadroom = 1 << 30
)

// grower asks the host for memory.
type grower struct {
	dir    string
	max    uint64 // bytes
	total  func() uint64
	ask    func() error
	total0 uint64 // RAM that memory.high is set for, in bytes
	high   uint64 // memory.high
	lost   uint64 // pages of files that were needed again
}

// watchMemory lets the guest grow up to max bytes of RAM, in the background.
func (s *server) watchMemory(max uint64) {
	if s.cfg.Cgroup == "" || max == 0 {
		return
	}
	s.grow.Do(func() {
		g := &grower{dir: s.cfg.Cgroup, max: max, total: totalRAM, ask: func() error { return s.send(0, &agent.MemoryLow{}) }}
		events, err := watchFile(g.dir + "/memory.events")
		if err != nil {
			return // a kernel without the controller
		}
		if g.limit(g.total()) != nil {
			events.Close()
			return
		}
		go g.run(events)
	})
}

// watchFile returns a file that can be read when the kernel changes another.
func watchFile(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		f.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return f, nil
}

func totalRAM() uint64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0
	}
	return si.Totalram * uint64(si.Unit)
}

// limit sets what containers may use of total bytes before the host is asked.
func (g *grower) limit(total uint64) error {
	g.total0 = total
	g.high = total - min(total/8, maxHeadroom)
	return writeFile(g.dir+"/memory.high", strconv.FormatUint(g.high, 10))
}

// run asks the host until the guest has all that it may have, or does not get any more. Then the kernel is on its own.
func (g *grower) run(events *os.File) {
	defer events.Close()
	defer func() { _ = writeFile(g.dir+"/memory.high", "max") }()
	p := make([]byte, 4096)
	for g.total0 < g.most() {
		if _, err := events.Read(p); err != nil {
			return
		}
		if total := g.total(); total > g.total0 { // late
			if g.limit(total) != nil {
				return
			}
			continue
		}
		if !g.needed() {
			time.Sleep(calmTime)
			continue
		}
		if g.ask() != nil || !g.await() {
			return
		}
	}
}

// most is the RAM from which on asking is not worth while: the kernel keeps some of what it is given.
func (g *grower) most() uint64 { return g.max - g.max/16 }

// await follows the memory that comes, until none has come for a while.
func (g *grower) await() bool {
	came := false
	for quiet := time.Duration(0); quiet < growTime; quiet += growPoll {
		time.Sleep(growPoll)
		total := g.total()
		if total <= g.total0 {
			if came && quiet > growTime/100 {
				return true
			}
			continue
		}
		if g.limit(total) != nil {
			return false
		}
		came, quiet = true, 0
	}
	return came
}

// needed tells whether memory is still short, and not only used by files' caches, which the kernel can reclaim, unless they
// are too small. What inotify tells may be of before memory came.
func (g *grower) needed() bool {
	use, err := os.ReadFile(g.dir + "/memory.current")
	if err != nil {
		return true
	}
	current, _ := strconv.ParseUint(strings.TrimSpace(string(use)), 10, 64)
	if current < g.high-g.high/16 {
		return false
	}
	stat, err := os.ReadFile(g.dir + "/memory.stat")
	if err != nil {
		return true
	}
	var caches, lost uint64
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "active_file", "inactive_file":
			caches += n
		case "workingset_refault_file":
			lost = n
		}
	}
	thrashing := lost > g.lost+refaults
	g.lost = lost
	return thrashing || caches < current/2
}
