package hostfs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// CachePolicy says for how long a guest may believe what it was told. Mainline virtio-fs has no way to take it back, so the zero
// value, which caches nothing, is the only one under which a change on the host is seen at the next open or path walk.
type CachePolicy struct {
	Entry     time.Duration // a name leads to this node
	Attr      time.Duration // attributes of a node
	Negative  time.Duration // a name does not exist
	KeepCache bool          // cached pages survive an open; only where nobody else writes
}

// Export is one host tree (or one single file) to serve.
type Export struct {
	// Name is the slash-separated place of the export below the FUSE root, such as "c1/0".
	Name string
	// Dir is any descriptor of a directory or regular file, O_PATH suffices. hostfs duplicates it: the caller keeps its own.
	Dir      *os.File
	ReadOnly bool
	Cache    CachePolicy
}

// Limits bounds what a guest can make the server hold.
type Limits struct {
	// MaxDescriptors is the number of descriptors for nodes, open files and locks together; 0 takes the process's
	// RLIMIT_NOFILE (raised to its hard limit) less a reserve for everybody else.
	MaxDescriptors int
	// MaxActors is the number of threads that create files in the caller's name; 0 means 8.
	MaxActors int
}

// Config describes a file system. The zero value is an empty one.
type Config struct {
	Exports []Export
	Logger  *slog.Logger
	Limits  Limits
	// ProcSelfFD is a directory descriptor of this process's /proc/self/fd, for a process that cannot see it by that path
	// (any more). Nil opens /proc/self/fd. hostfs duplicates it.
	ProcSelfFD *os.File
	// IDs translates user and group ids; nil is the identity.
	IDs IDMap
}

// FS is a running file system: a [fuse.RawFileSystem]. All methods may be called from any goroutine.
type FS struct {
	log    *limitedLogger
	ids    IDMap
	proc   *os.File // directory whose entry N is a magic link to descriptor N
	procfd int
	actors *actors
	budget *budget
	xattr  xattrCalls

	mu         sync.Mutex
	closed     bool
	nodes      map[uint64]*node
	byKey      map[inodeKey]*node
	lru        nodeList // nodes that could be parked, least recently used first
	handles    map[uint64]*handle
	lastNode   uint64
	lastHandle uint64
	root       *node
	exports    map[string]*export
}

type export struct {
	name     string
	readOnly bool
	cache    CachePolicy
	root     *node
	removed  bool // guarded by FS.mu
}

var _ fuse.RawFileSystem = (*FS)(nil)

// New makes a file system that serves the exports of cfg. It raises RLIMIT_NOFILE to the hard limit.
func New(cfg Config) (*FS, error) {
	proc, err := openProc(cfg.ProcSelfFD)
	if err != nil {
		return nil, err
	}
	limit, err := descriptorLimit(cfg.Limits.MaxDescriptors)
	if err != nil {
		proc.Close()
		return nil, err
	}
	fs := &FS{
		log:     newLimitedLogger(cfg.Logger),
		ids:     cfg.IDs,
		proc:    proc,
		procfd:  int(proc.Fd()),
		budget:  &budget{max: int64(limit)},
		nodes:   map[uint64]*node{},
		byKey:   map[inodeKey]*node{},
		handles: map[uint64]*handle{},
		exports: map[string]*export{},
	}
	if fs.ids == nil {
		fs.ids = identity{}
	}
	fs.actors = newActors(fs.procfd, cfg.Limits.MaxActors)
	fs.xattr = chooseXattrCalls(fs.procfd)
	fs.lru.init()
	fs.root = fs.addSynthetic("")
	fs.lastNode = fuse.FUSE_ROOT_ID
	for _, e := range cfg.Exports {
		if err := fs.Add(e); err != nil {
			fs.Close()
			return nil, err
		}
	}
	return fs, nil
}

// openProc duplicates f, or opens /proc/self/fd, and proves that the result describes this process.
func openProc(f *os.File) (*os.File, error) {
	var fd int
	var err error
	if f != nil {
		fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		fd, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("hostfs: /proc/self/fd: %w: mount a procfs or pass Config.ProcSelfFD", err)
	}
	proc := os.NewFile(uintptr(fd), "/proc/self/fd")
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil || sfs.Type != unix.PROC_SUPER_MAGIC {
		proc.Close()
		return nil, errors.New("hostfs: the descriptor given for /proc/self/fd is not on a procfs")
	}
	var a, b unix.Stat_t
	errA := unix.Fstat(fd, &a)
	errB := unix.Fstatat(fd, fdName(fd), &b, 0)
	if errA != nil || errB != nil || a.Dev != b.Dev || a.Ino != b.Ino {
		proc.Close()
		return nil, errors.New("hostfs: the directory given for /proc/self/fd is another process's")
	}
	return proc, nil
}

// Add starts serving another export.
func (fs *FS) Add(e Export) error {
	if e.Dir == nil {
		return fmt.Errorf("hostfs: export %q: no directory", e.Name)
	}
	names, err := splitExportName(e.Name)
	if err != nil {
		return err
	}
	fd, st, err := reopenPath(fs.procfd, int(e.Dir.Fd()))
	if err != nil {
		return fmt.Errorf("hostfs: export %q: %w", e.Name, err)
	}
	if err := servable(fd, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("hostfs: export %q: %w", e.Name, err)
	}
	fs.budget.force(1)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.attach(names, e, fd, &st); err != nil {
		unix.Close(fd)
		fs.budget.give(1)
		return err
	}
	return nil
}

// attach puts an export into the synthetic tree. fs.mu is held.
func (fs *FS) attach(names []string, e Export, fd int, st *unix.Statx_t) error {
	if fs.closed {
		return fmt.Errorf("hostfs: export %q: %w", e.Name, os.ErrClosed)
	}
	dir := fs.root
	for _, name := range names[:len(names)-1] {
		next := dir.children[name]
		if next == nil {
			next = fs.addSynthetic(name)
			next.parent = dir
			dir.children[name] = next
		}
		if next.children == nil {
			return fmt.Errorf("hostfs: export %q: lies inside another export", e.Name)
		}
		dir = next
	}
	last := names[len(names)-1]
	if dir.children[last] != nil {
		return fmt.Errorf("hostfs: export %q: the name is in use", e.Name)
	}
	exp := &export{name: e.Name, readOnly: e.ReadOnly, cache: e.Cache}
	n := fs.addNode(exp, fd, st)
	n.pinned, n.parent, n.name = true, dir, last
	n.crossed(st)
	exp.root = n
	dir.children[last] = n
	fs.exports[e.Name] = exp
	return nil
}

// Remove stops serving an export. Its descriptors are closed as soon as no request uses them; what the guest still holds of it
// answers ESTALE.
func (fs *FS) Remove(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	exp := fs.exports[name]
	if exp == nil {
		return fmt.Errorf("hostfs: export %q: %w", name, os.ErrNotExist)
	}
	delete(fs.exports, name)
	exp.removed = true
	dir := exp.root.parent
	delete(dir.children, exp.root.name)
	for ; dir != fs.root && len(dir.children) == 0; dir = dir.parent {
		delete(dir.parent.children, dir.name)
		dir.pinned = false
		fs.dropUnused(dir)
	}
	for _, h := range fs.handles {
		if h.node.exp == exp {
			fs.dropHandle(h)
		}
	}
	for _, n := range fs.nodes {
		if n.exp == exp {
			fs.detach(n)
		}
	}
	return nil
}

// SyncAll writes what the host's page cache holds of every export to its disks (syncfs).
func (fs *FS) SyncAll() error {
	fs.mu.Lock()
	var roots []*node
	for _, e := range fs.exports {
		e.root.users++
		roots = append(roots, e.root)
	}
	fs.mu.Unlock()
	var errs []error
	for _, n := range roots {
		if err := fs.syncNode(n); err != nil {
			errs = append(errs, fmt.Errorf("hostfs: export %q: %w", n.exp.name, err))
		}
		fs.put(n)
	}
	return errors.Join(errs...)
}

func (fs *FS) syncNode(n *node) error {
	fd, err := fs.reopen(n.fd, unix.O_RDONLY)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

// Close ends the service: every descriptor is closed once its last request ended, waiting locks end with EINTR, the threads end.
// The caller stops the requests first.
func (fs *FS) Close() error {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return nil
	}
	fs.closed = true
	for _, h := range fs.handles {
		fs.dropHandle(h)
	}
	for _, n := range fs.nodes {
		fs.detach(n)
	}
	clear(fs.exports)
	fs.mu.Unlock()
	fs.actors.close()
	return fs.proc.Close()
}

// String names the file system type, as `mount` shows it in tests.
func (fs *FS) String() string { return "govmm" }

// SetDebug is part of [fuse.RawFileSystem]; there is nothing to switch.
func (fs *FS) SetDebug(bool) {}

// Init is part of [fuse.RawFileSystem].
func (fs *FS) Init(*fuse.Server) {}

// OnUnmount is part of [fuse.RawFileSystem]. Close does the work.
func (fs *FS) OnUnmount() {}

// Access answers ENOSYS: the guest's kernel then stops asking and checks by itself.
func (fs *FS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }
