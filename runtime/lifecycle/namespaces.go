package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/namespace"
)

// joined are the namespaces that the config names by paths: the monitor is started in them.
type joined []*namespace.Namespace

// openNamespaces opens them, and refuses those of other micro-VMs: what the container shared there would be the host's
// side of it alone, and not what their guests have.
func openNamespaces(list []specs.LinuxNamespace) (open joined, err error) {
	defer func() {
		if err != nil {
			open.close()
		}
	}()
	for _, ns := range list {
		if ns.Path == "" {
			continue
		}
		n, err := namespace.Open(ns.Type, ns.Path)
		if err != nil {
			return open, err
		}
		open = append(open, n)
	}
	return open, open.checkNeighbours()
}

func (j joined) close() {
	for _, n := range j {
		n.Close()
	}
}

// checkNeighbours looks for monitors, whatever state root they belong to: processes of this program.
func (j joined) checkNeighbours() error {
	if len(j) == 0 {
		return nil
	}
	program, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, n := range j {
			if n.Of(0) || !n.Of(pid) {
				continue
			}
			if exe, err := os.Stat(dir + "/exe"); err == nil && os.SameFile(exe, program) {
				return fmt.Errorf("linux.namespaces: the %s namespace %s is that of another micro-VM (process %d): containers cannot share one yet",
					n.Type, n.Path, pid)
			}
		}
	}
	return nil
}

// hostname is what a container's UTS namespace begins with: the name of the one that it joins, or the host's.
func (j joined) hostname() (string, error) {
	for _, n := range j {
		if n.Type == specs.UTSNamespace {
			return n.Hostname()
		}
	}
	return os.Hostname()
}

// cloneFlags are those of the namespaces that are the monitor's own.
func cloneFlags(l *specs.Linux) uintptr {
	flags := namespace.Flag(specs.MountNamespace)
	for _, ns := range l.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
			if ns.Path == "" {
				flags |= namespace.Flag(ns.Type)
			}
		}
	}
	return flags
}
