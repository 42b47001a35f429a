package fs

import (
	"io"
	"log"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// memFS is a small file system in memory: files in one directory, which do not go away; their node ids and file handles
// are their numbers.
type memFS struct {
	fuse.RawFileSystem

	mu      sync.Mutex
	files   []*memFile // from node 2
	freed   *sync.Cond
	forgets uint64
	block   chan struct{} // Fsync waits for it to be closed
	entered chan struct{} // Fsync sends to it
}

type memFile struct {
	name   string
	data   []byte
	xattr  map[string][]byte
	holder uint64 // lock owner
}

func newMemFS(names ...string) *memFS {
	m := &memFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), block: make(chan struct{}), entered: make(chan struct{}, 1000),
	}
	m.freed = sync.NewCond(&m.mu)
	for _, n := range names {
		m.files = append(m.files, &memFile{name: n, xattr: map[string][]byte{}})
	}
	return m
}

func (m *memFS) options() *fuse.MountOptions {
	return &fuse.MountOptions{
		EnableLocks: true, MaxWrite: 1 << 20, ExtraCapabilities: fuse.CAP_SETXATTR_EXT,
		Logger:       log.New(io.Discard, "", 0),
		PanicHandler: func(any) fuse.Status { return fuse.EIO },
	}
}

// file returns a node's file, or nil. m.mu is held.
func (m *memFS) file(node uint64) *memFile {
	if node < 2 || node-2 >= uint64(len(m.files)) {
		return nil
	}
	return m.files[node-2]
}

func (m *memFS) attr(node uint64) (a fuse.Attr) {
	a.Ino, a.Nlink, a.Mode = node, 1, fuse.S_IFREG|0o644
	if f := m.file(node); f != nil {
		a.Size = uint64(len(f.data))
	} else {
		a.Mode = fuse.S_IFDIR | 0o755
	}
	return a
}

func (m *memFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, f := range m.files {
		if f.name == name && h.NodeId == rootNode {
			out.NodeId = uint64(i + 2)
			out.Attr = m.attr(out.NodeId)
			return fuse.OK
		}
	}
	return fuse.ENOENT
}

func (m *memFS) Forget(_, n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgets += n
}

func (m *memFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in.NodeId != rootNode && m.file(in.NodeId) == nil {
		return fuse.ENOENT
	}
	out.Attr = m.attr(in.NodeId)
	return fuse.OK
}

func (m *memFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh = in.NodeId
	return fuse.OK
}

func (m *memFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh = in.NodeId
	return fuse.OK
}

func (m *memFS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.file(in.NodeId)
	if f == nil {
		return nil, fuse.EBADF
	}
	data := f.data[min(in.Offset, uint64(len(f.data))):]
	return fuse.ReadResultData(append([]byte(nil), data[:min(len(data), int(in.Size))]...)), fuse.OK
}

func (m *memFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.file(in.NodeId)
	if f == nil || in.Offset > 4<<20 {
		return 0, fuse.EBADF
	}
	if end := int(in.Offset) + len(data); end > len(f.data) {
		f.data = append(f.data, make([]byte, end-len(f.data))...)
	}
	return uint32(copy(f.data[in.Offset:], data)), fuse.OK
}

func (m *memFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	return make([]byte, h.NodeId%5000), fuse.OK
}

func (m *memFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := in.Offset; i < uint64(len(m.files)); i++ {
		if !out.AddDirEntry(fuse.DirEntry{Name: m.files[i].name, Ino: i + 2, Mode: fuse.S_IFREG, Off: i + 1}) {
			break
		}
	}
	return fuse.OK
}

func (m *memFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := in.Offset; i < uint64(len(m.files)); i++ {
		e := out.AddDirLookupEntry(fuse.DirEntry{Name: m.files[i].name, Ino: i + 2, Mode: fuse.S_IFREG, Off: i + 1})
		if e == nil {
			break
		}
		e.NodeId = i + 2
		e.Attr = m.attr(i + 2)
	}
	return fuse.OK
}

func (m *memFS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.file(in.NodeId)
	if f == nil || len(f.xattr) > 10 {
		return fuse.EINVAL
	}
	f.xattr[name] = append([]byte(nil), value...)
	return fuse.OK
}

func (m *memFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.file(h.NodeId)
	if f == nil {
		return 0, fuse.EINVAL
	}
	v, ok := f.xattr[name]
	switch {
	case !ok:
		return 0, fuse.ENODATA
	case len(dest) < len(v):
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

func (m *memFS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	m.entered <- struct{}{}
	select {
	case <-m.block:
		return fuse.OK
	case <-cancel:
		return fuse.EINTR
	}
}

func (m *memFS) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.file(in.NodeId)
	switch {
	case f == nil:
		return fuse.EBADF
	case in.Lk.Typ == 2: // F_UNLCK
		if f.holder == in.Owner {
			f.holder = 0
			m.freed.Broadcast()
		}
	case f.holder != 0 && f.holder != in.Owner:
		return fuse.EAGAIN
	default:
		f.holder = in.Owner
	}
	return fuse.OK
}

func (m *memFS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-cancel:
			m.mu.Lock()
			defer m.mu.Unlock()
			m.freed.Broadcast()
		case <-stop:
		}
	}()
	for {
		if s := m.SetLk(cancel, in); s != fuse.EAGAIN {
			return s
		}
		m.mu.Lock()
		select {
		case <-cancel:
			m.mu.Unlock()
			return fuse.EINTR
		default:
		}
		if f := m.file(in.NodeId); f.holder != 0 {
			m.freed.Wait()
		}
		m.mu.Unlock()
	}
}
