package lifecycle

import (
	"errors"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/cgroup"
	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/oci"
)

// makeCgroup makes the monitor's cgroup. The state names it before it is there: whoever cleans up after a create that
// was killed finds it.
func (r *Runtime) makeCgroup(c *created) error {
	linux := c.spec.Linux
	// Version 1 takes a dozen directories and as many moves: only for whom it does something.
	if r.Cgroups == cgroup.Systemd || linux.CgroupsPath != "" || limitsHost(linux.Resources) || cgroup.Version2() {
		var err error
		if c.State.Cgroup, err = cgroup.Plan(r.Cgroups, linux.CgroupsPath, c.State.ID); err != nil {
			return err
		}
	}
	if err := c.Save(); err != nil {
		return err
	}
	if c.State.Cgroup == nil {
		return nil
	}
	memory, err := oci.HostMemory(c.spec)
	if err != nil {
		return err
	}
	err = c.State.Cgroup.Create(linux.Resources, memory)
	if forbidden(err) && !limitsHost(linux.Resources) && (r.Rootless || linux.CgroupsPath == "") {
		r.Log.Warn("going on without a cgroup", "error", err)
		_ = c.State.Cgroup.Remove()
		c.State.Cgroup = nil
		return nil
	}
	return err
}

// limitsHost says whether a limit is the host's to keep.
func limitsHost(r *specs.LinuxResources) bool {
	return r != nil && (r.CPU != nil || r.Memory != nil || r.BlockIO != nil || len(r.HugepageLimits)+len(r.Unified) > 0)
}

func forbidden(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS)
}

// joinCgroup moves the monitor into a cgroup that it could not be cloned into. It waits for its first message meanwhile.
func (c *created) joinCgroup() error {
	if c.State.Cgroup == nil {
		return nil
	}
	memory, err := oci.HostMemory(c.spec)
	if err != nil {
		return err
	}
	return c.State.Cgroup.Join(c.monitor.Pid, c.spec.Linux.Resources, memory)
}

// cgroupDir is the monitor's own cgroup, if it is one in which the kernel can be made to kill it (cgroup version 2).
func (c *created) cgroupDir() string {
	if c.State.Cgroup == nil {
		return ""
	}
	return c.State.Cgroup.Dir
}

// Update changes the limits of a container that has not stopped, in the guest and on the host.
func (r *Runtime) Update(id string, change *specs.LinuxResources) error {
	return r.locked(id, func(c *container.Container) error {
		if s := c.Status(); s == container.Stopped || s == container.Creating {
			return ErrNotRunning
		}
		old := c.State.Resources
		resources, err := oci.UpdateResources(old, change)
		if err != nil {
			return err
		}
		if err := update(c, resources, old); err != nil {
			return err
		}
		c.State.Resources = resources
		return c.Save()
	})
}

// update changes the host's limits before the guest's: a container that may use more must not be killed by the host meanwhile. If that
// fails, what was in force is again.
func update(c *container.Container, resources, old *specs.LinuxResources) error {
	memory, err := updateGuest(c, resources, true)
	if err != nil {
		return err
	}
	if c.State.Cgroup != nil {
		err = c.State.Cgroup.Set(resources, memory)
	}
	if err == nil {
		_, err = updateGuest(c, resources, false)
	}
	if err != nil && c.State.Cgroup != nil {
		if memory, prepareErr := updateGuest(c, old, true); prepareErr == nil {
			_ = c.State.Cgroup.Set(old, memory)
		}
	}
	return err
}

// updateGuest has the guest keep the limits, or make room for them, and returns what is to bound its monitor.
func updateGuest(c *container.Container, resources *specs.LinuxResources, prepare bool) (int64, error) {
	reply, err := call(c, control.Request{Op: control.OpUpdate, Resources: resources, Prepare: prepare})
	if err != nil {
		return 0, notRunning(c, err)
	}
	return reply.Memory, nil
}
