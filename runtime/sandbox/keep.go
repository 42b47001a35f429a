package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/namespace"
)

// Recursive sources live in a mount namespace of their own, that nobody is in. The pivot detaches the tree in which they were opened,
// and a detached tree falls apart: what was mounted below a source is gone from it, and what the host mounts later does not
// arrive. In the engines' view they cannot stay either: there, mounts of the container lie on them. The namespace holds nothing but
// these sources, so that no mount of the host is busy because of it.
//
// It is made by a thread that ends with it: a namespace belongs to a thread, and the pivot to follow is to be the process's.

// keepSources opens the recursive sources of steps, and the namespace that keeps them alive. scratch is a directory to mount over.
func keepSources(scratch string, steps []Step) (sources []*os.File, space *os.File, err error) {
	done := make(chan struct{})
	go namespace.OnOwnThread(func() {
		sources, space, err = makeNamespace(scratch, steps)
		close(done)
	})
	<-done
	return sources, space, err
}

func makeNamespace(scratch string, steps []Step) ([]*os.File, *os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, nil, os.NewSyscallError("unshare(CLONE_NEWNS)", err)
	}
	fd, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	namespace := os.NewFile(uintptr(fd), "mount namespace")
	trees := make([]*os.File, len(steps))
	for i, s := range steps {
		if !s.Recursive || s.Kind != Bind {
			continue
		}
		if trees[i], err = cloneTree(s.Source, true); err != nil {
			return nil, nil, fmt.Errorf("mount source %q: %w", s.Source, err)
		}
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=700"); err != nil {
		return nil, nil, os.NewSyscallError("mount tmpfs", err)
	}
	if err := unix.Chdir(scratch); err != nil {
		return nil, nil, os.NewSyscallError("chdir", err)
	}
	for i, tree := range trees {
		if tree == nil {
			continue
		}
		if trees[i], err = keepTree(tree, strconv.Itoa(i)); err != nil {
			return nil, nil, fmt.Errorf("mount source %q: %w", steps[i].Source, err)
		}
	}
	return trees, namespace, pivotHere()
}

// keepTree attaches a tree to a new name in the working directory, and returns its root.
func keepTree(tree *os.File, name string) (*os.File, error) {
	defer tree.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(tree.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, os.NewSyscallError("fstatat", err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		kind = unix.S_IFREG
	}
	err := unix.Mknod(name, kind, 0)
	if kind == unix.S_IFDIR {
		err = unix.Mkdir(name, 0o700)
	}
	if err != nil {
		return nil, os.NewSyscallError("create mount point", err)
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, os.NewSyscallError("move_mount", err)
	}
	return openPath(name, 0)
}
