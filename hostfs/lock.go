package hostfs

import (
	"math"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// POSIX locks are open-file-description locks on the host, one description per (inode, lock owner). Such locks conflict with those
// of other owners in this guest, of other VMs, and with POSIX locks of host processes; and they end with their descriptor, which
// is how POSIX's "released by any close of the file" is done: the guest's kernel sends FLUSH at each close.
//
// A waiting lock neither blocks a queue nor a thread: the goroutine tries again whenever this guest gave up a lock of the same
// file, and after a pause in case the holder is elsewhere. A thread in F_OFD_SETLKW would have to be signalled out of it, which
// in Go can always hit the moment before it went to sleep.
//
// A guest's own OFD locks look the same from here, but belong to one open file: no FLUSH names them, and they end with its RELEASE.
type lockOwner struct {
	node  *node
	fd    int
	fh    uint64 // the handle of its first lock
	pid   uint32 // the guest process that locked last
	users int
	gone  bool
}

// lockPause is how long a waiter sleeps before it asks again: it doubles up to the second value.
const lockPauseFirst, lockPauseMost = time.Millisecond, 50 * time.Millisecond

// useOwner returns the lock descriptor of one owner. pid is the lock's, a process's; the header of the request has the thread's. All
// fields are guarded by FS.mu.
func (fs *FS) useOwner(h *handle, owner uint64, pid uint32, create bool) (*lockOwner, fuse.Status) {
	fs.mu.Lock()
	if o := h.node.locks[owner]; o != nil || !create {
		if o != nil {
			o.users++
			if create {
				o.pid = pid
			}
		}
		fs.mu.Unlock()
		return o, fuse.OK
	}
	fs.mu.Unlock()
	fd, err := fs.openForLocks(h)
	if err != nil {
		return nil, status(err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h.gone || h.node.gone {
		fs.closeCounted(fd)
		return nil, fuse.EBADF
	}
	if o := h.node.locks[owner]; o != nil {
		fs.closeCounted(fd)
		o.users++
		return o, fuse.OK
	}
	o := &lockOwner{node: h.node, fd: fd, fh: h.id, pid: pid, users: 1}
	if h.node.locks == nil {
		h.node.locks = map[uint64]*lockOwner{}
	}
	h.node.locks[owner] = o
	return o, fuse.OK
}

// openForLocks opens a description for reading and writing, whatever this handle may do: all locks of an owner need one, and a later
// one may be of the other kind. Where the file can only be read, only read locks exist.
func (fs *FS) openForLocks(h *handle) (int, error) {
	if !h.node.exp.readOnly {
		if fd, err := fs.openCounted(h.fd, unix.O_RDWR); err == nil {
			return fd, nil
		}
	}
	return fs.openCounted(h.fd, unix.O_RDONLY)
}

func (fs *FS) putOwner(o *lockOwner) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	o.users--
	if o.users == 0 && o.gone {
		fs.closeCounted(o.fd)
		o.node.wakeWaiters()
	}
}

// unlockOwner ends all POSIX locks that an owner has on a file.
func (fs *FS) unlockOwner(n *node, owner uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n.locks[owner] != nil {
		fs.dropOwner(n, owner)
	}
}

// unlockHandle ends the locks that go with an open file. POSIX locks of this handle went before it, with the FLUSH of the close.
// fs.mu is held.
func (fs *FS) unlockHandle(h *handle) {
	for owner, o := range h.node.locks {
		if o.fh == h.id {
			fs.dropOwner(h.node, owner)
		}
	}
}

// dropLocks ends all POSIX locks of a file. fs.mu is held.
func (fs *FS) dropLocks(n *node) {
	for owner := range n.locks {
		fs.dropOwner(n, owner)
	}
}

// dropOwner ends the locks of one owner. fs.mu is held.
func (fs *FS) dropOwner(n *node, owner uint64) {
	o := n.locks[owner]
	delete(n.locks, owner)
	if len(n.locks) == 0 {
		n.locks = nil
	}
	o.gone = true
	if o.users == 0 {
		fs.closeCounted(o.fd)
	} else {
		// A request still uses the descriptor; what it locks ends with it.
		unlock := unix.Flock_t{Type: unix.F_UNLCK}
		_ = unix.FcntlFlock(uintptr(o.fd), unix.F_OFD_SETLK, &unlock)
	}
	n.wakeWaiters()
}

// wakeWaiters lets who waits for a lock of this file try again. fs.mu is held.
func (n *node) wakeWaiters() {
	if n.freed != nil {
		close(n.freed)
		n.freed = nil
	}
}

// flockOf translates a lock, with the range checked.
func flockOf(lk *fuse.FileLock) (unix.Flock_t, bool) {
	if lk.Start > math.MaxInt64 || lk.End > math.MaxInt64 || lk.Start > lk.End {
		return unix.Flock_t{}, false
	}
	f := unix.Flock_t{Type: int16(lk.Typ), Start: int64(lk.Start)}
	if lk.End != math.MaxInt64 {
		f.Len = int64(lk.End-lk.Start) + 1
	}
	return f, lk.Typ == unix.F_RDLCK || lk.Typ == unix.F_WRLCK || lk.Typ == unix.F_UNLCK
}

// GetLk tells which lock would be in the way.
func (fs *FS) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	lk, ok := flockOf(&in.Lk)
	if !ok || lk.Type == unix.F_UNLCK {
		return fuse.EINVAL
	}
	fd := h.fd
	o, _ := fs.useOwner(h, in.Owner, 0, false)
	if o != nil {
		defer fs.putOwner(o)
		fd = o.fd
	}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk); err != nil {
		return status(err)
	}
	out.Lk = fuse.FileLock{Typ: uint32(lk.Type)}
	if lk.Type == unix.F_UNLCK {
		return fuse.OK
	}
	out.Lk.Start, out.Lk.End = uint64(lk.Start), math.MaxInt64
	if lk.Len != 0 {
		out.Lk.End = uint64(lk.Start + lk.Len - 1)
	}
	out.Lk.Pid = fs.holder(h.node, in.Owner)
	return fuse.OK
}

// holder names the guest process that holds a lock, if there is only one it can be; 0 stands for somebody outside this guest.
func (fs *FS) holder(n *node, asking uint64) uint32 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	pid, others := uint32(0), 0
	for owner, o := range n.locks {
		if owner != asking {
			pid = o.pid
			others++
		}
	}
	if others != 1 {
		return 0
	}
	return pid
}

// SetLk takes or gives up a lock without waiting.
func (fs *FS) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	return fs.tryLock(h, in)
}

// SetLkw waits for a lock. An interrupt ends it with EINTR.
func (fs *FS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	pause := time.NewTimer(lockPauseFirst)
	defer pause.Stop()
	for wait := lockPauseFirst; ; wait = min(2*wait, lockPauseMost) {
		freed, gone := fs.waitChannel(h)
		if gone {
			return fuse.EINTR
		}
		if code := fs.tryLock(h, in); code != fuse.EAGAIN {
			return code
		}
		pause.Reset(wait)
		select {
		case <-cancel:
			return fuse.EINTR
		case <-freed:
			wait = lockPauseFirst
		case <-pause.C:
		}
	}
}

// waitChannel returns what is closed at the next unlock in this guest, taken before the attempt so that none is missed.
func (fs *FS) waitChannel(h *handle) (<-chan struct{}, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h.gone || fs.closed {
		return nil, true
	}
	if h.node.freed == nil {
		h.node.freed = make(chan struct{})
	}
	return h.node.freed, false
}

func (fs *FS) tryLock(h *handle, in *fuse.LkIn) fuse.Status {
	var code fuse.Status
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		code = fs.tryFlock(h, in.Lk.Typ)
	} else {
		code = fs.tryPOSIXLock(h, in)
	}
	if code == fuse.OK && in.Lk.Typ != unix.F_WRLCK {
		fs.mu.Lock()
		h.node.wakeWaiters() // something was given up, or a write lock became a read lock
		fs.mu.Unlock()
	}
	return code
}

func (fs *FS) tryPOSIXLock(h *handle, in *fuse.LkIn) fuse.Status {
	lk, ok := flockOf(&in.Lk)
	switch {
	case !ok:
		return fuse.EINVAL
	case lk.Type == unix.F_WRLCK && !h.writable:
		return fuse.EBADF
	case lk.Type == unix.F_UNLCK && lk.Start == 0 && lk.Len == 0:
		fs.unlockOwner(h.node, in.Owner)
		return fuse.OK
	}
	o, code := fs.useOwner(h, in.Owner, in.Lk.Pid, lk.Type != unix.F_UNLCK)
	if code != fuse.OK || o == nil {
		return code
	}
	defer fs.putOwner(o)
	err := unix.FcntlFlock(uintptr(o.fd), unix.F_OFD_SETLK, &lk)
	if err == unix.EACCES {
		err = unix.EAGAIN
	}
	return status(err)
}

// tryFlock is flock(2) on the handle's own description, which the guest's open file description is one to one.
func (fs *FS) tryFlock(h *handle, typ uint32) fuse.Status {
	op := unix.LOCK_UN
	switch typ {
	case unix.F_RDLCK:
		op = unix.LOCK_SH
	case unix.F_WRLCK:
		op = unix.LOCK_EX
	case unix.F_UNLCK:
	default:
		return fuse.EINVAL
	}
	return status(unix.Flock(h.fd, op|unix.LOCK_NB))
}
