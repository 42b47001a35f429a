package guest

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// members lists the guest's pids of a container's processes.
func (s *server) members(id string) []int {
	c, err := s.container(id)
	if err != nil {
		return nil
	}
	if c.cgroup != "" {
		return c.cgroup.members()
	}
	s.mu.Lock()
	init := c.init
	s.mu.Unlock()
	if init == nil {
		return nil
	}
	return sameNamespace(init.pid)
}

// sameNamespace finds the processes in pid's PID namespace: without cgroups, all that is known of a container.
func sameNamespace(pid int) []int {
	want, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		q, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err == nil && ns == want {
			pids = append(pids, q)
		}
	}
	return pids
}

// maxListed bounds a list, so that a fork bomb cannot make a reply that is too large.
const maxListed = 4096

func (s *server) list(id string, r *agent.Reply) error {
	if _, err := s.container(id); err != nil {
		return err
	}
	boot := bootTime()
	pids := s.members(id)
	slices.Sort(pids)
	for _, pid := range pids {
		if p, ok := readProcess(pid); ok && len(r.Processes) < maxListed {
			p.BootTimeSeconds = boot
			r.Processes = append(r.Processes, p)
		}
	}
	return nil
}

func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &ts)
	return (ts.Nano() - int64(BootTime())) / 1e9
}

// readProcess reads what ps shows of pid from procfs (proc_pid_stat(5)). It fails when the process is gone.
func readProcess(pid int) (p agent.ProcessInfo, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	open, end := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
	if open < 0 || end < open {
		return p, false
	}
	name, f := string(b[open+1:end]), strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return p, false
	}
	number := func(i int) uint64 { // i as in the manual: 3 is the state
		n, _ := strconv.ParseUint(f[i-3], 10, 64)
		return n
	}
	p = agent.ProcessInfo{PID: int32(pid), PPID: int32(number(4)), NSPID: int32(pid), TTY: uint32(number(7)), State: f[0][0],
		CPUTime: number(14) + number(15), StartTime: number(22), Command: "[" + name + "]"}
	if b, err = os.ReadFile(dir + "/status"); err != nil {
		return p, false
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		v := strings.Fields(value)
		switch {
		case key == "Uid" && len(v) > 1:
			n, _ := strconv.ParseUint(v[1], 10, 32) // effective
			p.UID = uint32(n)
		case key == "NSpid" && len(v) > 0:
			n, _ := strconv.ParseInt(v[len(v)-1], 10, 32)
			p.NSPID = int32(n)
		}
	}
	if b, err = os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		if len(b) > maxCommand {
			b = b[:maxCommand]
		}
		p.Command = strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
	}
	return p, true
}

// maxCommand bounds what is shown of a command line, in bytes.
const maxCommand = 200
