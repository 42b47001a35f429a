package hostfs

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirStream is how far a directory handle has read. Offsets are the host's own cookies (d_off): what telldir returned stays good
// while names come and go, exactly as it does on the host.
type dirStream struct {
	next  uint64   // the cookie at which rest begins
	pos   uint64   // where the descriptor stands, if that is known
	rest  []byte   // entries read but not delivered, copied: see keep
	names []string // synthetic directories: a copy, taken at offset 0
}

const (
	// dirBufSize is one getdents64: about 800 short names.
	dirBufSize = 32 << 10
	// dirKeepMost bounds what all directory handles together keep of entries that were read but had no room in a reply. It is a
	// matter of speed only: what is not kept is read again.
	dirKeepMost = 4 << 20
	// nowhere is a place where no directory is read from.
	nowhere = ^uint64(0)
)

var dirBuffers = sync.Pool{New: func() any { return new([dirBufSize]byte) }}

// OpenDir opens a directory.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, code := fs.use(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	if !n.isDir() {
		return fuse.ENOTDIR
	}
	fd := -1
	var err error
	if n.exp != nil {
		fd, err = fs.openCounted(n.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	} else if !fs.takeDescriptor() {
		err = unix.ENFILE // a synthetic directory needs no descriptor, but its handles are as many as a guest likes
	}
	if err != nil {
		return status(err)
	}
	h, code := fs.addHandle(n, fd, false)
	if code == fuse.OK {
		out.Fh = h.id
	}
	return code
}

// ReleaseDir closes a directory handle.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) { fs.releaseHandle(in.Fh, in.NodeId) }

// ReadDir lists a directory.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, func(_ *node, e *fuse.DirEntry) bool { return out.AddDirEntry(*e) })
}

// ReadDirPlus lists a directory and looks each name up. A name that cannot be looked up (any more) is listed all the same.
func (fs *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, func(dir *node, e *fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(*e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." || fs.budget.low() {
			return true // node 0: the guest's kernel looks it up when it needs it
		}
		if fs.lookupEntry(dir, e.Name, entry) == fuse.OK {
			out.FixMode(entry.Mode)
		}
		return true
	})
}

// readDir delivers entries from in.Offset on until add has no more room.
func (fs *FS) readDir(in *fuse.ReadIn, add func(*node, *fuse.DirEntry) bool) fuse.Status {
	h, code := fs.useHandle(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	if !h.node.isDir() {
		return fuse.ENOTDIR
	}
	dir, code := fs.use(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	h.dirMu.Lock()
	defer h.dirMu.Unlock()
	if h.fd < 0 {
		return fs.readSynthetic(h, in.Offset, add)
	}
	fs.takeKept(h)
	if code := h.seek(in.Offset); code != fuse.OK {
		return code
	}
	buf := dirBuffers.Get().(*[dirBufSize]byte)
	defer dirBuffers.Put(buf)
	defer fs.keep(h)
	for {
		if len(h.dir.rest) == 0 {
			if more, err := h.fill(buf[:]); !more {
				return status(err)
			}
		}
		var e fuse.DirEntry
		n := e.Parse(h.dir.rest)
		if !add(dir, &e) {
			return fuse.OK
		}
		h.dir.rest, h.dir.next = h.dir.rest[n:], e.Off
	}
}

// seek makes off the place of the next entry. Going on where the last request stopped needs no call.
func (h *handle) seek(off uint64) fuse.Status {
	if off == h.dir.next && (off != 0 || h.dir.pos == 0) && (len(h.dir.rest) > 0 || h.dir.pos == off) {
		return fuse.OK
	}
	h.dir = dirStream{next: off, pos: nowhere}
	if off > math.MaxInt64 {
		return fuse.EINVAL
	}
	if _, err := unix.Seek(h.fd, int64(off), unix.SEEK_SET); err != nil {
		return status(err)
	}
	h.dir.pos = off
	return fuse.OK
}

// fill reads more entries, and reports whether there were any.
func (h *handle) fill(buf []byte) (bool, error) {
	n, err := retry(func() (int, error) { return unix.Getdents(h.fd, buf) })
	if err != nil || n <= 0 {
		return false, err
	}
	h.dir.rest = buf[:n]
	h.dir.pos = nowhere
	return true, nil
}

// keep copies what was read and had no room out of the shared buffer, if all handles together may keep that much.
func (fs *FS) keep(h *handle) {
	n := int64(len(h.dir.rest))
	switch {
	case n == 0 && h.dir.next != 0:
		h.dir.rest, h.dir.pos = nil, h.dir.next
	case n == 0:
		h.dir.rest = nil // at the end of nothing: start again
	case fs.dirKept.Add(n) > dirKeepMost:
		fs.dirKept.Add(-n)
		h.dir.rest = nil
	default:
		h.dir.rest = bytes.Clone(h.dir.rest)
	}
}

// takeKept accounts for what keep kept being used now.
func (fs *FS) takeKept(h *handle) { fs.dirKept.Add(-int64(len(h.dir.rest))) }

// readSynthetic lists a synthetic directory by a sorted copy of its names; an offset counts them.
func (fs *FS) readSynthetic(h *handle, off uint64, add func(*node, *fuse.DirEntry) bool) fuse.Status {
	if off == 0 || h.dir.names == nil {
		fs.mu.Lock()
		h.dir.names = []string{".", ".."}
		for name := range h.node.children {
			h.dir.names = append(h.dir.names, name)
		}
		fs.mu.Unlock()
		slices.SortFunc(h.dir.names[2:], cmp.Compare[string])
	}
	for ; off < uint64(len(h.dir.names)); off++ {
		e := fuse.DirEntry{Name: h.dir.names[off], Mode: unix.S_IFDIR, Off: off + 1, Ino: h.node.fakeIno}
		if off >= 2 && !fs.describeChild(h.node, &e) {
			continue
		}
		if !add(h.node, &e) {
			break
		}
	}
	return fuse.OK
}

func (fs *FS) describeChild(dir *node, e *fuse.DirEntry) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := dir.children[e.Name]
	if n == nil {
		return false
	}
	e.Mode, e.Ino = n.mode, n.key.ino
	if n.fakeIno != 0 {
		e.Ino = n.fakeIno
	}
	return true
}
