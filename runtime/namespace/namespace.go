// Package namespace opens namespaces of the host by the paths that a config names, and runs code in them.
package namespace

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kind is what the kernel calls a type of namespace.
type kind struct {
	link string // in /proc/PID/ns
	flag int    // CLONE_NEW*
}

var kinds = map[specs.LinuxNamespaceType]kind{
	specs.MountNamespace:   {"mnt", unix.CLONE_NEWNS},
	specs.PIDNamespace:     {"pid", unix.CLONE_NEWPID},
	specs.NetworkNamespace: {"net", unix.CLONE_NEWNET},
	specs.IPCNamespace:     {"ipc", unix.CLONE_NEWIPC},
	specs.UTSNamespace:     {"uts", unix.CLONE_NEWUTS},
	specs.UserNamespace:    {"user", unix.CLONE_NEWUSER},
	specs.CgroupNamespace:  {"cgroup", unix.CLONE_NEWCGROUP},
	specs.TimeNamespace:    {"time", unix.CLONE_NEWTIME},
}

// Flag returns a type's CLONE_NEW*.
func Flag(t specs.LinuxNamespaceType) uintptr { return uintptr(kinds[t].flag) }

// Namespace is an open namespace.
type Namespace struct {
	Type specs.LinuxNamespaceType
	Path string
	file *os.File
}

// Open opens the namespace at path, which must be one of type t: setns would join one of any type.
func Open(t specs.LinuxNamespaceType, path string) (*Namespace, error) {
	// Only to look: to open what is no namespace may block or have an effect.
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("namespace path: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(at)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(at, &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("failed to setns into %s namespace: %s is no namespace", t, path)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("namespace path: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	n := &Namespace{Type: t, Path: path, file: os.NewFile(uintptr(fd), path)}
	flag, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && flag != kinds[t].flag {
		err = fmt.Errorf("failed to setns into %s namespace: %s is a %s namespace", t, path, typeOf(flag))
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func typeOf(flag int) specs.LinuxNamespaceType {
	for t, k := range kinds {
		if k.flag == flag {
			return t
		}
	}
	return "unknown"
}

// Close closes it.
func (n *Namespace) Close() { n.file.Close() }

// Of says whether process pid, 0 for the caller, is in the namespace.
func (n *Namespace) Of(pid int) bool {
	process := "self"
	if pid != 0 {
		process = strconv.Itoa(pid)
	}
	theirs, err := os.Stat(filepath.Join("/proc", process, "ns", kinds[n.Type].link))
	if err != nil {
		return false
	}
	mine, err := n.file.Stat()
	return err == nil && os.SameFile(mine, theirs)
}

// Run runs f on a thread that has joined the namespaces, or on any one when there are none. Processes that f starts are
// in them. They must not be mount, user or time namespaces, which a process of several threads cannot join.
func Run(list []*Namespace, f func() error) error {
	if len(list) == 0 {
		return f()
	}
	done := make(chan error, 1)
	go OnOwnThread(func() {
		for _, n := range list {
			if err := unix.Setns(int(n.file.Fd()), kinds[n.Type].flag); err != nil {
				done <- fmt.Errorf("failed to setns into %s namespace: %s: %w", n.Type, n.Path, err)
				return
			}
		}
		done <- f()
	})
	return <-done
}

// OnOwnThread runs f on a thread that is not the process's first and ends afterwards.
func OnOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // still locked: the thread ends
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		OnOwnThread(f)
	}()
	<-finished // the first thread is taken until then
	runtime.UnlockOSThread()
}

// Hostname returns the name that a UTS namespace gives the host.
func (n *Namespace) Hostname() (name string, err error) {
	err = Run([]*Namespace{n}, func() error {
		name, err = os.Hostname()
		return err
	})
	return name, err
}
