package hostfs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fillAttr translates what statx said. Owner ids go through the IDMap.
func (fs *FS) fillAttr(n *node, st *unix.Statx_t, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: uint64(st.Atime.Sec), Atimensec: st.Atime.Nsec,
		Mtime: uint64(st.Mtime.Sec), Mtimensec: st.Mtime.Nsec,
		Ctime: uint64(st.Ctime.Sec), Ctimensec: st.Ctime.Nsec,
		Mode: uint32(st.Mode), Nlink: st.Nlink, Blksize: st.Blksize,
		Rdev: uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor)),
	}
	a.Uid, a.Gid = fs.ids.GuestUID(st.Uid), fs.ids.GuestGID(st.Gid)
	if n.fakeIno != 0 {
		a.Ino = n.fakeIno
	}
	if n.submount {
		a.Flags = fuse.ATTR_SUBMOUNT
	}
}

// syntheticStat describes a directory that exists on no host.
func (fs *FS) syntheticStat(n *node, st *unix.Statx_t) {
	*st = unix.Statx_t{
		Mask: unix.STATX_BASIC_STATS, Mode: unix.S_IFDIR | 0o555, Nlink: 2, Ino: n.fakeIno, Blksize: 4096,
	}
}

// stat describes a node. If fh is a handle of it, that is asked: it still works where the node was parked and its name is gone.
func (fs *FS) stat(n *node, st *unix.Statx_t) fuse.Status {
	if n.exp == nil {
		fs.syntheticStat(n, st)
		return fuse.OK
	}
	return status(statxFD(n.fd, st))
}

func (n *node) attrTimeout() time.Duration {
	if n.exp == nil {
		return 0
	}
	return n.exp.cache.Attr
}

// GetAttr describes a node. A file handle adds nothing: the node's own descriptor outlives every name of the file.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, code := fs.use(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	return fs.attrOut(n, out)
}

func (fs *FS) attrOut(n *node, out *fuse.AttrOut) fuse.Status {
	var st unix.Statx_t
	if code := fs.stat(n, &st); code != fuse.OK {
		return code
	}
	out.SetTimeout(n.attrTimeout())
	fs.fillAttr(n, &st, &out.Attr)
	return fuse.OK
}

// Statx describes a node with its birth time.
func (fs *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n, code := fs.use(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	var st unix.Statx_t
	if code := fs.stat(n, &st); code != fuse.OK {
		return code
	}
	out.SetTimeout(n.attrTimeout())
	out.Statx.FromStatx(&st)
	out.Uid, out.Gid = fs.ids.GuestUID(st.Uid), fs.ids.GuestGID(st.Gid)
	if n.fakeIno != 0 {
		out.Ino = n.fakeIno
	}
	return fuse.OK
}

// SetAttr changes attributes in the order owner, mode, size, times: a change of owner takes away set-id bits that a mode in the
// same request may bring back.
func (fs *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	if code := fs.setOwner(n, in); code != fuse.OK {
		return code
	}
	if mode, ok := in.GetMode(); ok {
		// Through the magic link: the descriptor's own inode, so a symbolic link answers EOPNOTSUPP and is not followed.
		if err := unix.Fchmodat(fs.procfd, fdName(n.fd), mode, 0); err != nil {
			return status(err)
		}
	}
	if size, ok := in.GetSize(); ok {
		if code := fs.setSize(n, in, size); code != fuse.OK {
			return code
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		if err := unix.UtimesNanoAt(fs.procfd, fdName(n.fd), timesOf(in), 0); err != nil {
			return status(err)
		}
	}
	return fs.attrOut(n, out)
}

func (fs *FS) setOwner(n *node, in *fuse.SetAttrIn) fuse.Status {
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) == 0 {
		return fuse.OK
	}
	uid, gid := -1, -1
	if in.Valid&fuse.FATTR_UID != 0 {
		id, ok := fs.ids.HostUID(in.Uid)
		if !ok || id == ^uint32(0) {
			return fuse.EINVAL
		}
		uid = int(id)
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		id, ok := fs.ids.HostGID(in.Gid)
		if !ok || id == ^uint32(0) {
			return fuse.EINVAL
		}
		gid = int(id)
	}
	return status(unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW))
}

// setSize truncates through the caller's handle if it can write, as permissions were checked when that was opened; else
// through a descriptor of its own.
func (fs *FS) setSize(n *node, in *fuse.SetAttrIn, size uint64) fuse.Status {
	if n.isDir() {
		return fuse.EISDIR
	}
	if !n.isRegular() || size > 1<<63-1 {
		return fuse.EINVAL
	}
	truncate := func(fd int) error {
		_, err := retry(func() (int, error) { return 0, unix.Ftruncate(fd, int64(size)) })
		return err
	}
	kill := in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	if fh, ok := in.GetFh(); ok {
		h, code := fs.useHandle(fh, in.NodeId)
		if code != fuse.OK {
			return code
		}
		defer fs.putHandle(h)
		if h.writable {
			return fs.killing(&in.InHeader, h.fd, kill, func() error { return truncate(h.fd) })
		}
	}
	fd, err := fs.openCounted(n.fd, unix.O_WRONLY)
	if err != nil {
		return status(err)
	}
	defer fs.closeCounted(fd)
	return fs.killing(&in.InHeader, fd, kill, func() error { return truncate(fd) })
}

// timesOf makes utimensat's pair of times. The seconds are signed on the wire too.
func timesOf(in *fuse.SetAttrIn) []unix.Timespec {
	one := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&set == 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: int64(sec), Nsec: int64(min(nsec, 999_999_999))}
	}
	return []unix.Timespec{
		one(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		one(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
}

// StatFs describes the host's file system that holds a node.
func (fs *FS) StatFs(_ <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, code := fs.use(header.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	if n.exp == nil {
		*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: unix.NAME_MAX}
		return fuse.OK
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(n.fd, &st); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namelen),
	}
	return fuse.OK
}
