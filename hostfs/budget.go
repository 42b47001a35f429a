package hostfs

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// budget counts the descriptors that the guest makes this process hold.
type budget struct {
	max  int64
	used int64 // atomic
}

// try takes one descriptor if there is one.
func (b *budget) try() bool {
	if atomic.AddInt64(&b.used, 1) <= b.max {
		return true
	}
	atomic.AddInt64(&b.used, -1)
	return false
}

// force takes descriptors that the host's side decided to hold.
func (b *budget) force(n int64) { atomic.AddInt64(&b.used, n) }

// give returns descriptors.
func (b *budget) give(n int64) { atomic.AddInt64(&b.used, -n) }

// low reports whether it is time to park idle nodes.
func (b *budget) low() bool { return atomic.LoadInt64(&b.used) > b.max-b.max/4 }

// descriptorLimit raises RLIMIT_NOFILE to its hard limit and says how many descriptors the server may hold.
func descriptorLimit(limit int) (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if r.Cur < r.Max {
		raised := unix.Rlimit{Cur: r.Max, Max: r.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			r = raised
		}
	}
	// The monitor itself needs some: queues, vCPUs, control connections, stdio.
	const reserve, least = 256, 64
	most := int(min(r.Cur, 1<<30)) - reserve
	if limit == 0 {
		limit = most
	}
	if most < least {
		return 0, fmt.Errorf("hostfs: RLIMIT_NOFILE is %d, at least %d are needed: raise it (ulimit -n, LimitNOFILE=)", r.Cur,
			reserve+least)
	}
	return min(limit, most), nil
}

// takeDescriptor takes one of the budget's descriptors, parking idle nodes if they run out.
func (fs *FS) takeDescriptor() bool {
	if fs.budget.low() {
		fs.park(64)
	}
	if fs.budget.try() {
		return true
	}
	fs.log.once("hostfs: descriptors", "the guest uses all file descriptors of the file server: raise RLIMIT_NOFILE", "limit",
		fs.budget.max)
	return false
}

// park closes the descriptors of up to count nodes that no request, open file or lock uses, least recently used first. They are
// found again by their last known name, and taken only if it is still the same inode. Only a time of birth proves that: without
// one, an inode number may have gone to another file.
func (fs *FS) park(count int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for range min(fs.lru.Len(), parkScan) {
		if count == 0 {
			return
		}
		n := fs.lru.Front().Value.(*node)
		if n.users > 0 || n.handles > 0 || n.pinned || n.parent == nil || n.locks != nil || n.btime == (unix.StatxTimestamp{}) {
			fs.lru.MoveToBack(n.elem) // out of the way of the next search
			continue
		}
		fs.lru.drop(n)
		fs.closeNode(n)
		count--
	}
}

const (
	// parkScan bounds one search for idle nodes.
	parkScan = 1024
	// parkDepth bounds a walk up from a parked node. Last known parents can form a circle when directories were moved into each
	// other, so there need not be an end.
	parkDepth = 4096
)

// unpark opens a parked node again; the caller uses it. ESTALE tells the guest's kernel to walk the path anew.
func (fs *FS) unpark(n *node, depth int) fuse.Status {
	fs.mu.Lock()
	parent, name := n.parent, n.name
	fs.mu.Unlock()
	if parent == nil || depth > parkDepth {
		return fuse.Status(unix.ESTALE)
	}
	dir, code := fs.useBelow(parent.id, depth+1)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	var st unix.Statx_t
	fd, code := fs.openChild(dir, name, &st)
	if code == fuse.ENOENT {
		code = fuse.Status(unix.ESTALE)
	}
	if code != fuse.OK {
		return code
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	same := keyOf(n.exp, &st) == n.key && n.same(&st)
	if !same || n.gone || n.fd >= 0 {
		unix.Close(fd)
		fs.budget.give(1)
		if n.fd >= 0 {
			return fuse.OK // another request was faster
		}
		return fuse.Status(unix.ESTALE)
	}
	n.fd = fd
	fs.lru.add(n)
	return fuse.OK
}

// renamed keeps the last known names true when the guest itself moves a file, so that a parked node that a program sits in is
// found again. Who else moves files makes them stale.
func (fs *FS) renamed(dir *node, name string) {
	var st unix.Statx_t
	if err := unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, &st); err != nil {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.byKey[keyOf(dir.exp, &st)]; n != nil && !n.pinned && n.same(&st) {
		n.parent, n.name = dir, name
	}
}
