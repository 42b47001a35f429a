package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// version1 are the hierarchies that systemd makes of version 1's controllers.
var version1 = []string{"cpuset", "cpu,cpuacct", "blkio", "memory", "devices", "freezer", "net_cls,net_prio", "perf_event", "hugetlb", "pids"}

// useVersion1 puts the controllers of version 1 in the place of version 2, in the test host, where nobody else uses
// either. What the suite's programs know of cgroups is version 1.
func useVersion1() error {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return err
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if os.Getenv("GOVMM_TESTHOST") == "" {
		return errors.New("cgroup version 1 is for the test host")
	}
	if err := releaseControllers(cgroupRoot); err != nil {
		return err
	}
	if err := unix.Unmount(cgroupRoot, unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount2", err)
	}
	if err := unix.Mount("cgroup", cgroupRoot, "tmpfs", 0, "mode=755"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for _, c := range version1 {
		dir := filepath.Join(cgroupRoot, c)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", dir, "cgroup", 0, c); err != nil {
			return fmt.Errorf("mount version 1 of %s: %w", c, err)
		}
		for _, one := range strings.Split(c, ",") {
			if one == c {
				continue
			}
			if err := os.Symlink(c, filepath.Join(cgroupRoot, one)); err != nil {
				return err
			}
		}
	}
	return nil
}

// releaseControllers takes the controllers from the cgroups below dir, the deepest ones first: then another
// hierarchy can have them.
func releaseControllers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := releaseControllers(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	path := filepath.Join(dir, "cgroup.subtree_control")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var off []string
	for _, c := range strings.Fields(string(b)) {
		off = append(off, "-"+c)
	}
	return os.WriteFile(path, []byte(strings.Join(off, " ")), 0o644)
}
