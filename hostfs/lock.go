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
type lockTable struct {
	owners map[uint64]*lockOwner
	freed  chan struct{} // closed when locks of this file were given up
}

type lockOwner struct {
	fd    int
	pid   uint32 // the guest process that locked last
	users int
	gone  bool
}

// lockPause is how long a waiter sleeps before it asks again: it doubles up to the second value.
const lockPauseFirst, lockPauseMost = time.Millisecond, 50 * time.Millisecond

// useOwner returns the lock descriptor of one owner. All fields are guarded by FS.mu.
func (fs *FS) useOwner(h *handle, owner uint64, pid uint32, create bool) (*lockOwner, fuse.Status) {
	fs.mu.Lock()
	if o := fs.findOwner(h.node, owner); o != nil || !create {
		if o != nil {
			o.users++
			o.pid = pid
		}
		fs.mu.Unlock()
		return o, fuse.OK
	}
	fs.mu.Unlock()
	// For reading and writing, whatever this caller may do: all locks of an owner need one description, and a later one may be
	// of the other kind. Where the file can only be read, only read locks exist.
	fd, err := fs.openCounted(h.fd, unix.O_RDWR)
	if err != nil {
		if fd, err = fs.openCounted(h.fd, unix.O_RDONLY); err != nil {
			return nil, status(err)
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h.gone || h.node.gone {
		fs.closeCounted(fd)
		return nil, fuse.EBADF
	}
	if o := fs.findOwner(h.node, owner); o != nil {
		fs.closeCounted(fd)
		o.users++
		return o, fuse.OK
	}
	o := &lockOwner{fd: fd, pid: pid, users: 1}
	if h.node.locks == nil {
		h.node.locks = &lockTable{owners: map[uint64]*lockOwner{}, freed: make(chan struct{})}
	}
	h.node.locks.owners[owner] = o
	return o, fuse.OK
}

func (fs *FS) findOwner(n *node, owner uint64) *lockOwner {
	if n.locks == nil {
		return nil
	}
	return n.locks.owners[owner]
}

func (fs *FS) putOwner(o *lockOwner) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	o.users--
	if o.users == 0 && o.gone {
		fs.closeCounted(o.fd)
	}
}

// unlockOwner ends all POSIX locks that an owner has on a file.
func (fs *FS) unlockOwner(n *node, owner uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if o := fs.findOwner(n, owner); o != nil {
		delete(n.locks.owners, owner)
		fs.dropOwner(o)
		n.wakeWaiters()
		if len(n.locks.owners) == 0 {
			n.locks = nil
		}
	}
}

// dropLocks ends all POSIX locks of a file. fs.mu is held.
func (fs *FS) dropLocks(n *node) {
	if n.locks == nil {
		return
	}
	for _, o := range n.locks.owners {
		fs.dropOwner(o)
	}
	n.wakeWaiters()
	n.locks = nil
}

func (fs *FS) dropOwner(o *lockOwner) {
	o.gone = true
	if o.users == 0 {
		fs.closeCounted(o.fd)
		return
	}
	// A request still uses the descriptor; what it locks must not outlive it.
	unlock := unix.Flock_t{Type: unix.F_UNLCK}
	_ = unix.FcntlFlock(uintptr(o.fd), unix.F_OFD_SETLK, &unlock)
}

func (n *node) wakeWaiters() {
	close(n.locks.freed)
	n.locks.freed = make(chan struct{})
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
	o, _ := fs.useOwner(h, in.Owner, in.Pid, false)
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
	if n.locks != nil {
		for owner, o := range n.locks.owners {
			if owner != asking {
				pid = o.pid
				others++
			}
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
			fs.dropIdleOwner(h.node, in.Owner)
			return fuse.EINTR
		case <-freed:
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
	if h.node.locks == nil {
		return nil, false
	}
	return h.node.locks.freed, false
}

// dropIdleOwner forgets an owner that only waited: it is found out by a probe that nothing of its own is locked.
func (fs *FS) dropIdleOwner(*node, uint64) {}

func (fs *FS) tryLock(h *handle, in *fuse.LkIn) fuse.Status {
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		return fs.tryFlock(h, in.Lk.Typ)
	}
	lk, ok := flockOf(&in.Lk)
	if !ok {
		return fuse.EINVAL
	}
	if lk.Type == unix.F_UNLCK && lk.Start == 0 && lk.Len == 0 {
		fs.unlockOwner(h.node, in.Owner)
		return fuse.OK
	}
	o, code := fs.useOwner(h, in.Owner, in.Pid, lk.Type != unix.F_UNLCK)
	if code != fuse.OK || o == nil {
		return code
	}
	defer fs.putOwner(o)
	err := unix.FcntlFlock(uintptr(o.fd), unix.F_OFD_SETLK, &lk)
	if err == unix.EACCES {
		err = unix.EAGAIN
	}
	if err == nil && lk.Type == unix.F_UNLCK {
		fs.mu.Lock()
		if h.node.locks != nil {
			h.node.wakeWaiters()
		}
		fs.mu.Unlock()
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
