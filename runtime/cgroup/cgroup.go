// Package cgroup puts a monitor into a host cgroup, whose limits bound all of its threads, vCPUs included: CPU and I/O
// exactly, memory with the overhead of a VM. The limits of a container's memory and processes are kept in the guest.
//
// Cgroups of version 2 are made here, so that a monitor can be cloned into one. Those of version 1, and those that
// systemd makes, are left to opencontainers/cgroups, which writes the limits in every case.
package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/manager"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var mountPoint = "/sys/fs/cgroup" // elsewhere in tests

// Driver says who makes cgroups.
type Driver string

// The drivers, by the names that crun's --cgroup-manager has for them.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
	Disabled Driver = "disabled" // nobody: the monitor stays where its caller is
)

// Group is one cgroup, made or to be made for a container.
type Group struct {
	// Dir is its directory in a hierarchy of version 2, "" in those of version 1.
	Dir string `json:"dir,omitempty"`
	// Top is the topmost of the directories that were missing and that go with the cgroup, if nobody else is in them.
	Top string `json:"top,omitempty"`
	// Paths are its directories in the hierarchies of version 1, by controller, and Tops what Top is for each of them.
	Paths map[string]string `json:"paths,omitempty"`
	Tops  map[string]string `json:"tops,omitempty"`
	// Unit is what systemd made it of.
	Unit *Unit `json:"unit,omitempty"`
}

// Unit names a systemd scope.
type Unit struct {
	Slice  string `json:"slice"`
	Prefix string `json:"prefix"`
	Name   string `json:"name"`
}

// Version2 says whether this host's cgroups are those of version 2 alone.
func Version2() bool {
	var fs unix.Statfs_t
	return unix.Statfs(mountPoint, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// Plan looks for a place for the cgroup of the container id, linux.cgroupsPath as the driver understands it, and makes
// nothing yet. It returns nil, nil where none is to be made.
func Plan(driver Driver, path, id string) (*Group, error) {
	g, err := locate(driver, path, id)
	if err != nil || g == nil {
		return nil, err
	}
	// Not to be shared: its processes would count as the container's, and it could not be removed.
	for _, dir := range g.dirs() {
		if pids, err := cgroups.GetPids(dir); err == nil && len(pids) > 0 {
			return nil, fmt.Errorf("linux.cgroupsPath %q: container's cgroup is not empty: %d process(es) found", path, len(pids))
		}
	}
	switch {
	case g.Unit != nil: // systemd's to remove
	case g.Dir != "":
		g.Top = topmost(g.Dir)
	default:
		g.Tops = map[string]string{}
		for controller, dir := range g.Paths {
			g.Tops[controller] = topmost(dir)
		}
	}
	return g, nil
}

// topmost returns the topmost directory on the way to dir that will be made with it, dir itself if its parent is there.
func topmost(dir string) string {
	for {
		parent := filepath.Dir(dir)
		if _, err := os.Stat(parent); !errors.Is(err, os.ErrNotExist) {
			return dir
		}
		dir = parent
	}
}

func locate(driver Driver, path, id string) (*Group, error) {
	switch {
	case driver == Disabled:
		return nil, nil
	case driver == Systemd:
		return planUnit(path, id)
	case Version2():
		return planDir(path, id)
	}
	c := &cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}}
	if path == "" {
		c.Name = id // the library takes one or the other
	}
	m, err := manager.New(c)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return &Group{Paths: m.GetPaths()}, nil
}

// planDir finds a directory as runc does: a relative path begins beside the caller's own cgroup, which cannot have
// children with controllers while the caller is in it.
func planDir(path, id string) (*Group, error) {
	if path == "" {
		path = id
	}
	if !filepath.IsAbs(path) {
		own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
		if err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		path = filepath.Join(filepath.Dir(filepath.Join("/", own[""])), filepath.Join("/", path))
	}
	g := &Group{Dir: filepath.Join(mountPoint, filepath.Join("/", path))}
	if g.Dir == mountPoint {
		return nil, fmt.Errorf("linux.cgroupsPath %q is the root of the hierarchy", path)
	}
	return g, nil
}

// planUnit reads slice:prefix:name.
func planUnit(path, id string) (*Group, error) {
	unit := &Unit{Prefix: "govmm", Name: id}
	if path != "" {
		parts := strings.Split(path, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", path)
		}
		unit = &Unit{parts[0], parts[1], parts[2]}
	}
	g := &Group{Unit: unit}
	m, err := g.manager(&cgroups.Resources{SkipDevices: true})
	if err != nil {
		return nil, err
	}
	if g.Dir = m.GetPaths()[""]; g.Dir == "" {
		g.Paths = m.GetPaths()
	}
	return g, nil
}

func (g *Group) dirs() []string {
	if g.Dir != "" {
		return []string{g.Dir}
	}
	var out []string
	for _, dir := range g.Paths {
		out = append(out, dir)
	}
	return out
}

// manager returns the library's view of g.
func (g *Group) manager(r *cgroups.Resources) (cgroups.Manager, error) {
	c := &cgroups.Cgroup{Resources: r}
	paths := maps.Clone(g.Paths) // the library empties what it has removed
	switch {
	case g.Unit != nil:
		c.Systemd, c.Parent, c.ScopePrefix, c.Name = true, g.Unit.Slice, g.Unit.Prefix, g.Unit.Name
		if g.Dir != "" {
			paths = map[string]string{"": g.Dir}
		}
	case g.Dir != "":
		return fs2.NewManager(c, g.Dir)
	}
	m, err := manager.NewWithPaths(c, paths)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return m, nil
}

// Create makes a cgroup of version 2 and writes the limits to it, before it has a process; one of another kind is made
// by Join. What it has made when it fails, Remove removes.
func (g *Group) Create(r *specs.LinuxResources, memory int64) error {
	if !g.Clonable() {
		return nil
	}
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
	return g.Set(r, memory)
}

// Clonable says whether a process can be cloned into the cgroup that Create made, with Open; else Join moves it there.
func (g *Group) Clonable() bool { return g.Dir != "" && g.Unit == nil }

// Join makes a cgroup that Create has not, writes the limits to it and moves a process into it.
func (g *Group) Join(pid int, r *specs.LinuxResources, memory int64) error {
	if g.Clonable() {
		return nil
	}
	m, err := g.manager(convert(r, memory, g.Dir != ""))
	if err != nil {
		return err
	}
	if err := m.Apply(pid); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return g.Set(r, memory)
}

// mkdir makes the directories and hands the controllers down to them.
func (g *Group) mkdir() error {
	parent := mountPoint
	rel, _ := filepath.Rel(mountPoint, g.Dir)
	all := ""
	for i, name := range strings.Split(rel, "/") {
		if i == 0 {
			b, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
			if err != nil {
				return err
			}
			all = strings.TrimSpace(string(b))
		}
		enable(parent, all)
		parent = filepath.Join(parent, name)
		if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// enable hands controllers to the children of dir. One may be missing there or in use elsewhere; a limit that needs it
// says so when it is written.
func enable(dir, controllers string) {
	if controllers == "" {
		return
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	if os.WriteFile(file, []byte("+"+strings.ReplaceAll(controllers, " ", " +")), 0) == nil {
		return
	}
	for _, c := range strings.Fields(controllers) {
		_ = os.WriteFile(file, []byte("+"+c), 0)
	}
}

// Set writes the limits; memory is what bounds the whole monitor, in bytes: 0 for what stays, -1 for none.
func (g *Group) Set(r *specs.LinuxResources, memory int64) error {
	converted := convert(r, memory, g.Dir != "")
	if !g.has("memory") {
		// The guest keeps the container's limit in any case.
		converted.Memory, converted.MemorySwap, converted.MemoryReservation = 0, 0, 0
	}
	m, err := g.manager(converted)
	if err != nil {
		return err
	}
	if err := m.Set(converted); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// has says whether the cgroup has a controller.
func (g *Group) has(controller string) bool {
	if g.Dir == "" {
		return g.Paths[controller] != ""
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.controllers"))
	return err == nil && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+controller+" ")
}

// Open returns a descriptor of the cgroup, for clone3's CLONE_INTO_CGROUP.
func (g *Group) Open() (*os.File, error) { return os.Open(g.Dir) }

// OOMKills returns how often the kernel has killed in the cgroup for want of memory.
func (g *Group) OOMKills() uint64 {
	m, err := g.manager(&cgroups.Resources{SkipDevices: true})
	if err != nil {
		return 0
	}
	n, _ := m.OOMKillCount()
	return n
}

// Stats returns what the cgroup's processes have used.
func (g *Group) Stats() (*cgroups.Stats, error) {
	m, err := g.manager(&cgroups.Resources{SkipDevices: true})
	if err != nil {
		return nil, err
	}
	return m.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.CPUSet | cgroups.IO | cgroups.HugeTLB})
}

// patience is how long Remove waits for processes that are ending: a VM with much memory takes a while, as does the monitor of a
// create that was killed, until it notices.
const patience = 5 * time.Second

// Remove removes the cgroup, which is empty once its processes have ended with all their threads, and waits for that; then the
// directories above it that were made with it. One that is gone is no error; nor is a nil Group.
func (g *Group) Remove() error {
	switch {
	case g == nil:
		return nil
	case !g.Clonable():
		return g.destroy()
	case !strings.HasPrefix(g.Dir, mountPoint+"/"):
		return nil
	}
	err := unix.Rmdir(g.Dir)
	for end := time.Now().Add(patience); errors.Is(err, unix.EBUSY) && time.Now().Before(end); err = unix.Rmdir(g.Dir) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", g.Dir, err)
	}
	prune(g.Dir, g.Top)
	return nil
}

// prune removes the directories above dir up to top that nobody else is in.
func prune(dir, top string) {
	for dir != top && strings.HasPrefix(dir, top+"/") {
		dir = filepath.Dir(dir)
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return // somebody else's by now
		}
	}
}

func (g *Group) destroy() error {
	m, err := g.manager(&cgroups.Resources{SkipDevices: true})
	if err != nil {
		return err
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for controller, top := range g.Tops {
		prune(g.Paths[controller], top)
	}
	return nil
}
