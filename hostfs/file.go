package hostfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are the guest's open flags that this side honours. O_APPEND comes with every write (see write); O_DIRECT is left to the
// guest's kernel: what it sends is not aligned for the host's, and the host's page cache is what keeps all parties coherent.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// hostFlags translates guest open flags. A read-only export refuses those that write.
func hostFlags(exp *export, flags uint32) (int, bool, fuse.Status) {
	f := int(flags) & openFlags
	writable := f&unix.O_ACCMODE != unix.O_RDONLY
	if f&unix.O_ACCMODE == unix.O_ACCMODE {
		return 0, false, fuse.EINVAL
	}
	if exp.readOnly && (writable || f&unix.O_TRUNC != 0) {
		return 0, false, fuse.EROFS
	}
	return f, writable, fuse.OK
}

// Open opens a regular file. Everything else is opened by the guest's kernel without asking, so who asks is lying.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, code := fs.useHost(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	h, code := fs.openNode(n, &in.InHeader, in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0)
	if code != fuse.OK {
		return code
	}
	fs.fillOpen(n, h, out)
	return fuse.OK
}

func (fs *FS) fillOpen(n *node, h *handle, out *fuse.OpenOut) {
	out.Fh = h.id
	if n.exp.cache.KeepCache {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
}

// openNode opens a node that the caller uses.
func (fs *FS) openNode(n *node, h *fuse.InHeader, flags uint32, kill bool) (*handle, fuse.Status) {
	switch {
	case n.isDir():
		return nil, fuse.EISDIR
	case !n.isRegular():
		return nil, fuse.Status(unix.ENXIO)
	}
	f, writable, code := hostFlags(n.exp, flags)
	if code != fuse.OK {
		return nil, code
	}
	fd := -1
	open := func() (err error) {
		fd, err = fs.openCounted(n.fd, f)
		if err == unix.EPERM && f&unix.O_NOATIME != 0 {
			fd, err = fs.openCounted(n.fd, f&^unix.O_NOATIME) // not the owner on this side: O_NOATIME is a wish
		}
		return err
	}
	// The bits that O_TRUNC takes away are looked for before it.
	code = fs.killing(h, n.fd, kill && f&unix.O_TRUNC != 0, open)
	if code != fuse.OK {
		return nil, code
	}
	return fs.addHandle(n, fd, writable)
}

// Create makes and opens a file, or opens what another party just made under that name.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if code := checkName(name); code != fuse.OK {
		return code
	}
	dir, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if !dir.isDir() {
		return fuse.ENOTDIR
	}
	f, writable, code := hostFlags(dir.exp, in.Flags)
	if code != fuse.OK {
		return code
	}
	for range 8 {
		// O_EXCL always: without it, open would follow a link, or wait in a FIFO, that somebody put there.
		code = fs.createNew(dir, in, name, f&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, writable, out)
		if code != fuse.Status(unix.EEXIST) || in.Flags&unix.O_EXCL != 0 {
			return code
		}
		if code = fs.createExisting(dir, in, name, out); code != fuse.ENOENT {
			return code
		}
	}
	return code
}

// createNew makes a new inode: with a name, or (name "", O_TMPFILE in flags) without.
func (fs *FS) createNew(dir *node, in *fuse.CreateIn, name string, flags int, writable bool, out *fuse.CreateOut) fuse.Status {
	if !fs.takeDescriptor() {
		return fuse.Status(unix.ENFILE)
	}
	if !fs.takeDescriptor() {
		fs.budget.give(1)
		return fuse.Status(unix.ENFILE)
	}
	fd := -1
	code := fs.as(&in.InHeader, in.Umask, func() (err error) {
		fd, err = retry(func() (int, error) {
			if name == "" {
				// "." of the descriptor: O_TMPFILE wants a directory that it may look up.
				return unix.Openat(dir.fd, ".", flags|unix.O_CLOEXEC, in.Mode&0o7777)
			}
			return unix.Openat(dir.fd, name, flags|unix.O_CLOEXEC, in.Mode&0o7777)
		})
		return err
	})
	if code != fuse.OK {
		fs.budget.give(2)
		return code
	}
	path, st, err := reopenPath(fs.procfd, fd)
	if err != nil {
		unix.Close(fd)
		fs.budget.give(2)
		return status(err)
	}
	n, code := fs.enter(dir, name, path, &st)
	if code != fuse.OK {
		fs.closeCounted(fd)
		return code
	}
	h, code := fs.addHandle(n, fd, writable)
	if code != fuse.OK {
		return code
	}
	fs.fillEntry(n, &st, &out.EntryOut)
	fs.fillOpen(n, h, &out.OpenOut)
	return fuse.OK
}

func (fs *FS) createExisting(dir *node, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	var st unix.Statx_t
	n, code := fs.lookup(dir, name, &st)
	if code != fuse.OK {
		return code
	}
	id := n.id
	if n, code = fs.use(id); code != fuse.OK {
		fs.Forget(id, 1)
		return code
	}
	defer fs.put(n)
	var h *handle
	if n.mode == unix.S_IFLNK {
		code = fuse.Status(unix.ESTALE) // the guest's kernel looks again, and follows the link by itself
	} else {
		h, code = fs.openNode(n, &in.InHeader, in.Flags, in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0)
	}
	if code == fuse.OK {
		code = status(statxFD(n.fd, &st)) // O_TRUNC changed it
	}
	if code != fuse.OK {
		fs.Forget(n.id, 1)
		return code
	}
	fs.fillEntry(n, &st, &out.EntryOut)
	fs.fillOpen(n, h, &out.OpenOut)
	return fuse.OK
}

// Tmpfile makes a file without a name; Link can give it one, unless it was opened with O_EXCL.
func (fs *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if !dir.isDir() {
		return fuse.ENOTDIR
	}
	f, writable, code := hostFlags(dir.exp, in.Flags)
	if code != fuse.OK {
		return code
	}
	if !writable {
		return fuse.EINVAL
	}
	f |= unix.O_TMPFILE | int(in.Flags)&unix.O_EXCL
	return fs.createNew(dir, in, "", f&^unix.O_TRUNC, writable, out)
}

// Release closes a handle, and its flock with it.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { fs.releaseHandle(in.Fh, in.NodeId) }

// Flush is sent at each close of a descriptor: it ends the caller's POSIX locks and reports what close would.
func (fs *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, code := fs.useHandle(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	fs.unlockOwner(h.node, in.LockOwner)
	if !h.writable {
		return fuse.OK
	}
	// Network file systems report late write errors at close: closing a duplicate asks them.
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(fd))
}

// Fsync writes a file to the host's disk.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, code := fs.useHandle(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	if h.fd < 0 {
		return fuse.OK
	}
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	if in.FsyncFlags&dataOnly != 0 {
		return status(unix.Fdatasync(h.fd))
	}
	return status(unix.Fsync(h.fd))
}

// FsyncDir writes a directory to the host's disk.
func (fs *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.Fsync(cancel, in)
}
