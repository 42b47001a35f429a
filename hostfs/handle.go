package hostfs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// handle is an open file or directory of the guest.
type handle struct {
	id       uint64
	node     *node
	fd       int // -1: synthetic directory
	writable bool

	users int  // guarded by FS.mu
	gone  bool // guarded by FS.mu: the last user closes fd

	dirMu sync.Mutex
	dir   dirStream
}

// useHandle returns the handle for a request, with its descriptor open until putHandle. A guest that mixes the handles of
// two files gets EBADF.
func (fs *FS) useHandle(fh, nodeid uint64) (*handle, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h := fs.handles[fh]
	if h == nil || h.gone || h.node.id != nodeid {
		return nil, fuse.EBADF
	}
	h.users++
	return h, fuse.OK
}

// useFile is useHandle for requests that only files have.
func (fs *FS) useFile(fh, nodeid uint64) (*handle, fuse.Status) {
	h, code := fs.useHandle(fh, nodeid)
	if code == fuse.OK && h.node.isDir() {
		fs.putHandle(h)
		return nil, fuse.EISDIR
	}
	return h, code
}

// useOpen returns a handle of a node with its descriptor open until putHandle, or nil where none is known.
func (fs *FS) useOpen(n *node) *handle {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h := n.open
	if h == nil || h.fd < 0 {
		return nil
	}
	h.users++
	return h
}

func (fs *FS) putHandle(h *handle) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h.users--
	if h.users == 0 && h.gone {
		fs.closeHandle(h)
	}
}

// addHandle makes a handle that owns fd, which the budget has counted. The caller uses n.
func (fs *FS) addHandle(n *node, fd int, writable bool) (*handle, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || n.exp != nil && n.exp.removed {
		if fd >= 0 {
			fs.closeCounted(fd)
		} else {
			fs.budget.give(1)
		}
		return nil, fuse.Status(unix.ESTALE)
	}
	fs.lastHandle++
	h := &handle{id: fs.lastHandle, node: n, fd: fd, writable: writable}
	fs.handles[h.id] = h
	n.handles++
	n.open = h
	return h, fuse.OK
}

// dropHandle takes a handle out of the table. fs.mu is held.
func (fs *FS) dropHandle(h *handle) {
	if h.gone {
		return
	}
	h.gone = true
	delete(fs.handles, h.id)
	h.node.handles--
	if h.node.open == h {
		h.node.open = nil
	}
	fs.unlockHandle(h)
	if h.users == 0 {
		fs.closeHandle(h)
	}
}

func (fs *FS) closeHandle(h *handle) {
	fs.takeKept(h)
	h.dir.rest = nil
	if h.fd < 0 {
		fs.budget.give(1) // see OpenDir
	} else {
		fs.closeCounted(h.fd)
		h.fd = -1
		h.node.wakeWaiters() // its flock has ended
	}
}

func (fs *FS) releaseHandle(fh, nodeid uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h := fs.handles[fh]; h != nil && h.node.id == nodeid {
		fs.dropHandle(h)
	}
}

// openCounted reopens an O_PATH descriptor within the budget.
func (fs *FS) openCounted(path, flags int) (int, error) {
	if !fs.takeDescriptor() {
		return -1, unix.ENFILE
	}
	fd, err := fs.reopen(path, flags)
	if err != nil {
		fs.budget.give(1)
	}
	return fd, err
}

func (fs *FS) closeCounted(fd int) {
	unix.Close(fd)
	fs.budget.give(1)
}
