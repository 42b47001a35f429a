package guest

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// cgroup is a container's directory below the cgroup2 mount; "" is none, for which every method does nothing.
type cgroup string

func newCgroup(mount, id string, r agent.Resources) (cgroup, error) {
	if mount == "" {
		return "", nil
	}
	c := cgroup(mount + "/" + id)
	if err := unix.Mkdir(string(c), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", wrap("make the container's cgroup", err)
	}
	// The limit of processes comes with limitPids: it may leave no room for the threads of a stage.
	r.PidsMax = 0
	if err := c.apply(r); err != nil {
		c.remove()
		return "", err
	}
	return c, nil
}

// apply sets the limits. MemorySwap counts memory too, cgroup2's file does not.
func (c cgroup) apply(r agent.Resources) error {
	if c == "" {
		return nil
	}
	if err := c.check(r); err != nil {
		return err
	}
	swap := r.MemorySwap
	if swap > 0 && r.MemoryMax > 0 {
		swap -= r.MemoryMax
		if swap < 0 {
			return failure(agent.Invalid, "memory+swap limit should be >= memory limit")
		}
	}
	if err := c.set("memory.swap.max", swap, r.MemorySwap != 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err // a kernel without swap has no such file
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"memory.max", r.MemoryMax}, {"memory.low", r.MemoryLow}, {"pids.max", r.PidsMax}} {
		if err := c.set(f.name, f.value, f.value != 0); err != nil {
			return err
		}
	}
	for _, f := range r.Files {
		if strings.Contains(f.Name, "/") {
			return failure(agent.Invalid, "not a cgroup's file: "+f.Name)
		}
		if err := writeFile(string(c)+"/"+f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

// check keeps a container from being killed by a limit below what it uses, in runc's words.
func (c cgroup) check(r agent.Resources) error {
	if !r.Check || r.MemoryMax <= 0 {
		return nil
	}
	usage := strings.TrimSpace(c.read("memory.current"))
	if n, err := strconv.ParseInt(usage, 10, 64); err == nil && r.MemoryMax <= n {
		return failure(agent.Invalid, "rejecting memory limit "+strconv.FormatInt(r.MemoryMax, 10)+" <= usage "+usage)
	}
	return nil
}

// stats returns what the container uses, in the words of the kernel.
func (c cgroup) stats() []agent.File {
	if c == "" {
		return nil
	}
	var out []agent.File
	for _, name := range agent.StatFiles {
		if text := c.read(name); text != "" {
			out = append(out, agent.File{Name: name, Value: text})
		}
	}
	return out
}

// read returns a file, "" if it cannot be read.
func (c cgroup) read(name string) string {
	b, err := os.ReadFile(string(c) + "/" + name)
	if err != nil {
		return ""
	}
	return string(b)
}

func (c cgroup) set(file string, value int64, wanted bool) error {
	if !wanted {
		return nil
	}
	text := "max"
	if value >= 0 {
		text = strconv.FormatInt(value, 10)
	} else if file == "memory.low" {
		text = "0"
	}
	return writeFile(string(c)+"/"+file, text)
}

// open returns a descriptor to start a process in, or -1.
func (c cgroup) open() int {
	if c == "" {
		return -1
	}
	fd, err := unix.Open(string(c), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// limitPids sets the limit of processes. Those that are there stay.
func (c cgroup) limitPids(n int64) error {
	if c == "" {
		return nil
	}
	return c.set("pids.max", n, n != 0)
}

// add moves a process into c.
func (c cgroup) add(pid int) error {
	if c == "" {
		return nil
	}
	id := strconv.Itoa(pid)
	return wrap("error adding pid "+id+" to cgroups", writeFile(string(c)+"/cgroup.procs", id))
}

// below returns the cgroup at a path in c, in runc's words.
func (c cgroup) below(name string) (cgroup, error) {
	if c == "" {
		return "", failure(agent.Invalid, "the container has no cgroup to enter")
	}
	full := path.Join(string(c), name)
	if full != string(c) && !strings.HasPrefix(full, string(c)+"/") {
		return "", failure(agent.Invalid, name+" is not a sub cgroup path")
	}
	return cgroup(full), nil
}

// of returns the cgroup in which pid is: a container that manages cgroups itself (systemd) may have left c for one
// below, and a cgroup with controllers enabled below it takes no process.
func (c cgroup) of(pid int) cgroup {
	if c == "" {
		return ""
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return c
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "0::/")
	own := strings.TrimPrefix(string(c), cgroupDir+"/")
	if !ok || !strings.HasPrefix(path+"/", own+"/") || strings.Contains(path, "..") {
		return c
	}
	return cgroup(cgroupDir + "/" + path)
}

// oomKilled tells whether the limit of memory has killed in c.
func (c cgroup) oomKilled() bool {
	if c == "" {
		return false
	}
	for line := range strings.Lines(c.read("memory.events")) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// members lists the processes in c and below it.
func (c cgroup) members() []int {
	b, err := os.ReadFile(string(c) + "/cgroup.procs")
	if err != nil {
		return nil
	}
	var pids []int
	for _, line := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	for _, sub := range c.children() {
		pids = append(pids, sub.members()...)
	}
	return pids
}

func (c cgroup) children() []cgroup {
	entries, err := os.ReadDir(string(c))
	if err != nil {
		return nil
	}
	var subs []cgroup
	for _, e := range entries {
		if e.IsDir() {
			subs = append(subs, c+cgroup("/"+e.Name()))
		}
	}
	return subs
}

// remove deletes c and what the container made below it. A process that has just ended may still be counted.
func (c cgroup) remove() {
	if c == "" {
		return
	}
	for _, sub := range c.children() {
		sub.remove()
	}
	for range 50 {
		if err := unix.Rmdir(string(c)); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
