// Package cgroup puts a monitor into a host cgroup of version 2, whose CPU limits bound all of its threads, vCPUs
// included. Memory and processes of a container are limited in the guest.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mountPoint = "/sys/fs/cgroup"

// ErrUnsupported reports a host without cgroup v2.
var ErrUnsupported = errors.New("this host's /sys/fs/cgroup is not cgroup version 2: boot with systemd.unified_cgroup_hierarchy=1, or leave linux.resources.cpu out")

// Group is one cgroup directory that Create made.
type Group struct {
	dir     string
	created string // the topmost directory that was missing
}

// Needed says whether the config asks for anything that a host cgroup does.
func Needed(l *specs.Linux) bool {
	return l.CgroupsPath != "" || l.Resources != nil && l.Resources.CPU != nil
}

// Create makes the cgroup for path (relative to the root of the hierarchy) and writes the CPU limits to it. On a host
// without cgroup v2 it returns nil, nil when there is nothing to limit.
func Create(path string, cpu *specs.LinuxCPU) (*Group, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(mountPoint, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		if cpu == nil {
			return nil, nil
		}
		return nil, ErrUnsupported
	}
	g := &Group{dir: filepath.Join(mountPoint, filepath.Join("/", path))}
	if g.dir == mountPoint {
		return nil, fmt.Errorf("linux.cgroupsPath %q is the root of the hierarchy", path)
	}
	if err := g.mkdir(); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	if err := g.limit(cpu); err != nil {
		_ = g.Remove()
		return nil, err
	}
	return g, nil
}

// mkdir makes the directories and hands the controllers down to them.
func (g *Group) mkdir() error {
	parent := mountPoint
	rel, _ := filepath.Rel(mountPoint, g.dir)
	for _, name := range strings.Split(rel, "/") {
		for _, controller := range []string{"+cpu", "+cpuset", "+memory", "+pids", "+io"} {
			// A controller may be missing or in use elsewhere; a limit that needs it says so when it is written.
			_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
		}
		parent = filepath.Join(parent, name)
		err := os.Mkdir(parent, 0o755)
		switch {
		case err == nil && g.created == "":
			g.created = parent
		case err != nil && !errors.Is(err, os.ErrExist):
			return err
		}
	}
	return nil
}

func (g *Group) limit(cpu *specs.LinuxCPU) error {
	if cpu == nil {
		return nil
	}
	if cpu.Shares != nil && *cpu.Shares != 0 {
		if err := g.write("cpu.weight", strconv.FormatUint(weight(*cpu.Shares), 10)); err != nil {
			return err
		}
	}
	if cpu.Quota != nil || cpu.Period != nil {
		if err := g.write("cpu.max", cpuMax(cpu)); err != nil {
			return err
		}
	}
	if cpu.Cpus != "" {
		if err := g.write("cpuset.cpus", cpu.Cpus); err != nil {
			return err
		}
	}
	if cpu.Mems != "" {
		return g.write("cpuset.mems", cpu.Mems)
	}
	return nil
}

// weight converts cgroup v1 shares (2 to 262144) to a v2 weight (1 to 10000) as the runtime-spec's implementations do.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func cpuMax(cpu *specs.LinuxCPU) string {
	quota := "max"
	if cpu.Quota != nil && *cpu.Quota > 0 {
		quota = strconv.FormatInt(*cpu.Quota, 10)
	}
	period := uint64(100000)
	if cpu.Period != nil && *cpu.Period != 0 {
		period = *cpu.Period
	}
	return quota + " " + strconv.FormatUint(period, 10)
}

func (g *Group) write(file, value string) error {
	err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0)
	if err != nil {
		return fmt.Errorf("cgroup: set %s to %q: %w", file, value, err)
	}
	return nil
}

// Dir returns the cgroup's directory, to be given to Remove in a later call.
func (g *Group) Dir() string { return g.dir }

// Open returns a descriptor of the cgroup, for clone3's CLONE_INTO_CGROUP.
func (g *Group) Open() (*os.File, error) { return os.Open(g.dir) }

// Remove removes the cgroup.
func (g *Group) Remove() error { return Remove(g.dir) }

// Remove removes the cgroup at dir, which is empty once its processes are reaped; it waits a little for that. A
// directory that is gone is no error.
func Remove(dir string) error {
	if dir == "" || !strings.HasPrefix(dir, mountPoint+"/") {
		return nil
	}
	var err error
	for range 50 {
		err = unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}
