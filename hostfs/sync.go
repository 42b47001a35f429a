package hostfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// SyncAll writes what the host's page cache holds of every export to its disks (syncfs).
func (fs *FS) SyncAll() error {
	fs.mu.Lock()
	var roots []*node
	for _, e := range fs.exports {
		e.root.users++
		roots = append(roots, e.root)
	}
	fs.mu.Unlock()
	var errs []error
	for _, n := range roots {
		if err := fs.syncNode(n); err != nil {
			errs = append(errs, fmt.Errorf("hostfs: export %q: %w", n.exp.name, err))
		}
		fs.put(n)
	}
	return errors.Join(errs...)
}

// SyncFS is the guest's syncfs on the file system of a node; the synthetic root stands for all exports.
func (fs *FS) SyncFS(id uint64) fuse.Status {
	n, code := fs.use(id)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	switch {
	case n.exp == nil:
		return status(fs.SyncAll())
	case !n.isDir() && !n.isRegular():
		return fuse.EINVAL // no file system's root, and not to be opened
	case !fs.takeDescriptor():
		return fuse.Status(unix.ENFILE)
	}
	defer fs.budget.give(1)
	return status(fs.syncNode(n))
}

// syncNode needs one descriptor for a moment. At the end of a VM it must be had whatever the guest holds, so it is not counted here.
func (fs *FS) syncNode(n *node) error {
	fd, err := fs.reopen(n.fd, unix.O_RDONLY)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}
