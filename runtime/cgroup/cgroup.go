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

var mountPoint = "/sys/fs/cgroup" // elsewhere in tests

// ErrUnsupported reports a host without cgroup v2.
var ErrUnsupported = errors.New("this host's /sys/fs/cgroup is not cgroup version 2: boot with systemd.unified_cgroup_hierarchy=1, or leave linux.resources.cpu out")

// Group is one cgroup, made or to be made for a container.
type Group struct {
	Dir string `json:"dir"`
	// Top is the topmost of the directories that were missing and that go with the cgroup, if nobody else is in them.
	Top string `json:"top"`
}

// Needed says whether the config asks for anything that a host cgroup does.
func Needed(l *specs.Linux) bool {
	return l.CgroupsPath != "" || l.Resources != nil && l.Resources.CPU != nil
}

// Plan looks for a place for the cgroup of path (relative to the root of the hierarchy) and makes nothing yet. On a host
// without cgroup v2 it returns nil, nil when there is nothing to limit.
func Plan(path string, cpu *specs.LinuxCPU) (*Group, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(mountPoint, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		if cpu == nil {
			return nil, nil
		}
		return nil, ErrUnsupported
	}
	g := &Group{Dir: filepath.Join(mountPoint, filepath.Join("/", path))}
	if g.Dir == mountPoint {
		return nil, fmt.Errorf("linux.cgroupsPath %q is the root of the hierarchy", path)
	}
	// Not to be shared: its processes would count as the container's, and it could not be removed.
	if b, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.procs")); err == nil && len(b) > 0 {
		return nil, fmt.Errorf("linux.cgroupsPath %q: container's cgroup is not empty: %d process(es) found", path, strings.Count(string(b), "\n"))
	}
	g.Top = g.Dir
	for dir := filepath.Dir(g.Dir); dir != mountPoint; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			g.Top = dir
		}
	}
	return g, nil
}

// Create makes the cgroup and writes the CPU limits to it. What it has made when it fails, Remove removes.
func (g *Group) Create(cpu *specs.LinuxCPU) error {
	// A neighbour that ends may take a common directory away between two steps.
	err := g.mkdir()
	for range 10 {
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
		err = g.mkdir()
	}
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return g.limit(cpu)
}

// mkdir makes the directories and hands the controllers down to them.
func (g *Group) mkdir() error {
	parent := mountPoint
	rel, _ := filepath.Rel(mountPoint, g.Dir)
	for _, name := range strings.Split(rel, "/") {
		for _, controller := range []string{"+cpu", "+cpuset", "+memory", "+pids", "+io"} {
			// A controller may be missing or in use elsewhere; a limit that needs it says so when it is written.
			_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
		}
		parent = filepath.Join(parent, name)
		if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
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
	err := os.WriteFile(filepath.Join(g.Dir, file), []byte(value), 0)
	if err != nil {
		return fmt.Errorf("cgroup: set %s to %q: %w", file, value, err)
	}
	return nil
}

// Open returns a descriptor of the cgroup, for clone3's CLONE_INTO_CGROUP.
func (g *Group) Open() (*os.File, error) { return os.Open(g.Dir) }

// Remove removes the cgroup, which is empty once its processes are reaped, and waits a little for that; then the
// directories above it that were made with it. One that is gone is no error; nor is a nil Group.
func (g *Group) Remove() error {
	if g == nil || !strings.HasPrefix(g.Dir, mountPoint+"/") {
		return nil
	}
	err := unix.Rmdir(g.Dir)
	for range 50 {
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = unix.Rmdir(g.Dir)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", g.Dir, err)
	}
	for dir := g.Dir; dir != g.Top && strings.HasPrefix(dir, g.Top+"/"); {
		dir = filepath.Dir(dir)
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			break // somebody else's by now
		}
	}
	return nil
}
