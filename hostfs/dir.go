package hostfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// make runs a call that makes a name in a directory, in the caller's name, and answers with the new entry. Another party may
// have replaced the name before it is looked up: then the answer describes what is there now.
func (fs *FS) make(h *fuse.InHeader, umask uint32, name string, out *fuse.EntryOut, call func(dirfd int) error) fuse.Status {
	if code := checkName(name); code != fuse.OK {
		return code
	}
	dir, code := fs.useWritable(h.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if !dir.isDir() {
		return fuse.ENOTDIR
	}
	if code := fs.as(h, umask, func() error { return call(dir.fd) }); code != fuse.OK {
		return code
	}
	return fs.lookupEntry(dir, name, out)
}

// Mknod makes a regular file, FIFO, socket or device node. None of the latter is ever opened on this side.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, in.Umask, name, out, func(dirfd int) error {
		return unix.Mknodat(dirfd, name, in.Mode, int(in.Rdev))
	})
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, in.Umask, name, out, func(dirfd int) error {
		return unix.Mkdirat(dirfd, name, in.Mode)
	})
}

// Symlink makes a symbolic link. Its target is text that only the guest's kernel interprets.
func (fs *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(h, 0, name, out, func(dirfd int) error { return unix.Symlinkat(target, dirfd, name) })
}

// Link gives a file another name, by its descriptor: also a file that has none because O_TMPFILE made it.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if code := checkName(name); code != fuse.OK {
		return code
	}
	old, code := fs.useWritable(in.Oldnodeid)
	if code != fuse.OK {
		return code
	}
	defer fs.put(old)
	dir, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	switch {
	case old.exp != dir.exp:
		return fuse.EXDEV
	case old.isDir():
		return fuse.EPERM
	case !dir.isDir():
		return fuse.ENOTDIR
	}
	err := unix.Linkat(fs.procfd, fdName(old.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return status(err)
	}
	return fs.lookupEntry(dir, name, out)
}

// Readlink reads a symbolic link.
func (fs *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, code := fs.useHost(h.NodeId)
	if code != fuse.OK {
		return nil, code
	}
	defer fs.put(n)
	if n.mode != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:size], fuse.OK
}

// remove runs an unlinkat.
func (fs *FS) remove(h *fuse.InHeader, name string, flags int) fuse.Status {
	if code := checkName(name); code != fuse.OK {
		return code
	}
	dir, code := fs.useWritable(h.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if !dir.isDir() {
		return fuse.ENOTDIR
	}
	return status(unix.Unlinkat(dir.fd, name, flags))
}

// Unlink removes a name of anything but a directory.
func (fs *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, 0)
}

// Rmdir removes an empty directory.
func (fs *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, unix.AT_REMOVEDIR)
}

// Rename moves a name, with the flags of renameat2: RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT.
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	for _, name := range []string{oldName, newName} {
		if code := checkName(name); code != fuse.OK {
			return code
		}
	}
	from, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(from)
	to, code := fs.useWritable(in.Newdir)
	if code != fuse.OK {
		return code
	}
	defer fs.put(to)
	switch {
	case from.exp != to.exp:
		return fuse.EXDEV
	case !from.isDir() || !to.isDir():
		return fuse.ENOTDIR
	case in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0:
		return fuse.EINVAL
	}
	call := func() error { return unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)) }
	if in.Flags&unix.RENAME_WHITEOUT != 0 {
		code = fs.as(&in.InHeader, 0, call) // the whiteout is a new inode and gets the caller's ids
	} else {
		code = status(call())
	}
	if code == fuse.OK {
		fs.renamed(to, newName)
	}
	if code == fuse.OK && in.Flags&unix.RENAME_EXCHANGE != 0 {
		fs.renamed(from, oldName)
	}
	return code
}
