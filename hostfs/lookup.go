package hostfs

import (
	"errors"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// statxMask is all that is ever asked of statx.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// how opens one component, and neither a symbolic link nor a mount namespace's edge can lead it elsewhere.
var how = unix.OpenHow{
	Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
}

func fdName(fd int) string { return strconv.Itoa(fd) }

// status makes a FUSE status of an error; nil is OK.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fuse.EIO
	}
	if errno == unix.EMFILE {
		errno = unix.ENFILE // it is this process's table that is full, not the caller's
	}
	return fuse.Status(errno)
}

// retry repeats a call that a signal of Go's scheduler interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func statxFD(fd int, st *unix.Statx_t) error {
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_SYNC_AS_STAT, statxMask, st)
}

// reopenPath returns an O_PATH descriptor of what fd is open on.
func reopenPath(procfd, fd int) (int, unix.Statx_t, error) {
	var st unix.Statx_t
	p, err := retry(func() (int, error) {
		return unix.Openat(procfd, fdName(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, st, err
	}
	if err := statxFD(p, &st); err != nil {
		unix.Close(p)
		return -1, st, err
	}
	return p, st, nil
}

// reopen opens what the O_PATH descriptor fd stands for. The caller made sure that it is a regular file or a directory.
func (fs *FS) reopen(fd, flags int) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(fs.procfd, fdName(fd), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	})
}

// openChild opens one name below a directory as O_PATH, and refuses what must not be served.
func (fs *FS) openChild(dir *node, name string, st *unix.Statx_t) (int, fuse.Status) {
	if !fs.takeDescriptor() {
		return -1, fuse.Status(unix.ENFILE)
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(dir.fd, name, &how) })
	if err != nil {
		fs.budget.give(1)
		if err == unix.EXDEV || err == unix.EAGAIN {
			err = unix.ESTALE // a race with a mount or a rename: the guest's kernel walks again
		}
		return -1, status(err)
	}
	err = statxFD(fd, st)
	if err == nil && (st.Mnt_id != dir.key.mnt || unix.Mkdev(st.Dev_major, st.Dev_minor) != dir.key.dev) {
		if err = refuseKernelFS(fd); err == errRefused {
			fs.log.once("hostfs: "+dir.exp.name, "a mount below an export was hidden from the guest", "export", dir.exp.name,
				"name", name, "reason", err)
			err = unix.EACCES
		}
	}
	if err != nil {
		unix.Close(fd)
		fs.budget.give(1)
		return -1, status(err)
	}
	return fd, fuse.OK
}

// lookup finds a name and counts one lookup for it.
func (fs *FS) lookup(dir *node, name string, st *unix.Statx_t) (*node, fuse.Status) {
	if dir.exp == nil {
		return fs.lookupSynthetic(dir, name, st)
	}
	fd, code := fs.openChild(dir, name, st)
	if code != fuse.OK {
		return nil, code
	}
	return fs.enter(dir, name, fd, st)
}

// enter makes fd, which the table takes over, known to the guest under a name of dir's, and counts one lookup. A file that
// O_TMPFILE made has the name "".
func (fs *FS) enter(dir *node, name string, fd int, st *unix.Statx_t) (*node, fuse.Status) {
	exp := dir.exp
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || exp.removed {
		unix.Close(fd)
		fs.budget.give(1)
		return nil, fuse.Status(unix.ESTALE)
	}
	n := fs.byKey[keyOf(exp, st)]
	if n != nil && n.fd < 0 && !n.same(st) {
		fs.detach(n) // its inode number went to another file while it was parked
		n = nil
	}
	switch {
	case n == nil:
		n = fs.addNode(exp, fd, st)
		if n.key.mnt != dir.key.mnt || n.key.dev != dir.key.dev {
			n.crossed()
		}
	case n.fd < 0 && n.users == 0:
		n.fd = fd // it was parked
		fs.lru.add(n)
	default:
		unix.Close(fd)
		fs.budget.give(1)
	}
	n.nlookup++
	if name != "" && !n.pinned {
		n.parent, n.name = dir, name
	}
	if n.elem != nil {
		fs.lru.MoveToBack(n.elem)
	}
	return n, fuse.OK
}

func (fs *FS) lookupSynthetic(dir *node, name string, st *unix.Statx_t) (*node, fuse.Status) {
	fs.mu.Lock()
	n := dir.children[name]
	if n == nil {
		fs.mu.Unlock()
		return nil, fuse.ENOENT
	}
	n.nlookup++
	n.users++
	fs.mu.Unlock()
	defer fs.put(n)
	if n.exp == nil {
		fs.syntheticStat(n, st)
		return n, fuse.OK
	}
	if err := statxFD(n.fd, st); err != nil {
		fs.Forget(n.id, 1)
		return nil, status(err)
	}
	return n, fuse.OK
}

// Lookup resolves one name in one directory.
func (fs *FS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if code := checkName(name); code != fuse.OK {
		return code
	}
	dir, code := fs.use(header.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if !dir.isDir() {
		return fuse.ENOTDIR
	}
	code = fs.lookupEntry(dir, name, out)
	if code == fuse.ENOENT && dir.exp != nil && dir.exp.cache.Negative > 0 {
		// FUSE's negative entry: node 0 with a timeout.
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(dir.exp.cache.Negative)
		return fuse.OK
	}
	return code
}

// lookupEntry looks a name up and fills the reply.
func (fs *FS) lookupEntry(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	var st unix.Statx_t
	n, code := fs.lookup(dir, name, &st)
	if code == fuse.OK {
		fs.fillEntry(n, &st, out)
	}
	return code
}

func (fs *FS) fillEntry(n *node, st *unix.Statx_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1 // node ids are never used twice
	if n.exp != nil {
		out.SetEntryTimeout(n.exp.cache.Entry)
		out.SetAttrTimeout(n.exp.cache.Attr)
	}
	fs.fillAttr(n, st, &out.Attr)
}
