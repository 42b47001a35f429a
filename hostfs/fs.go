package hostfs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

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
	dirKept    atomic.Int64 // bytes in dirStream.rest of all handles
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
	fs.lastNode = fuse.FUSE_ROOT_ID
	fs.root = fs.newSynthetic(fuse.FUSE_ROOT_ID, "")
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
