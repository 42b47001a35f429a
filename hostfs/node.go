package hostfs

import (
	"container/list"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Inode numbers that are not the host's: synthetic directories count from syntheticIno, single files that share a guest device with
// files of another host device lie above foreignIno.
const (
	syntheticIno = 1 << 63
	foreignIno   = syntheticIno | 1<<62
)

// inodeKey tells host inodes apart. An inode number is not reused while a descriptor pins the inode, so no generation is needed;
// a parked node is checked against its birth time as well. The mount is part of it because it decides what may be done
// (read-only binds), the export because it does so too.
type inodeKey struct {
	exp      *export
	dev, ino uint64
	mnt      uint64
}

// node is what a node id stands for. Fields without a note never change after the node became visible; the others are guarded
// by FS.mu.
type node struct {
	id       uint64
	key      inodeKey
	exp      *export             // nil: synthetic
	mode     uint32              // file type bits only
	btime    unix.StatxTimestamp // zero where the file system does not keep it
	submount bool
	fakeIno  uint64           // shown instead of the host's inode number, if not 0
	children map[string]*node // synthetic directories only; guarded

	fd      int // O_PATH; -1: parked or closed. Constant while users > 0
	users   int
	nlookup uint64
	pinned  bool // held by the export list
	gone    bool // out of the tables: the last user closes fd
	parent  *node
	name    string // last known name in parent; a hint for parked nodes
	handles int
	open    *handle               // one of the handles, or nil
	elem    *list.Element         // in FS.lru; nil while parked
	locks   map[uint64]*lockOwner // by lock owner
	freed   chan struct{}         // closed when a lock was given up; nil while nobody waits
}

func (n *node) isDir() bool     { return n.mode == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.mode == unix.S_IFREG }

// crossed marks a node that lies on another file system than its parent.
func (n *node) crossed() {
	if n.isDir() {
		n.submount = true
		return
	}
	// Only directories can be FUSE submounts. A single file gets a number that no other file on the device has that it shows up on,
	// and that stays the same when the guest forgets the file and finds it again.
	n.fakeIno = foreignIno | hashInode(n.key.dev, n.key.ino)&(1<<62-1)
}

func hashInode(dev, ino uint64) uint64 {
	h := fnv.New64a()
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], dev)
	binary.LittleEndian.PutUint64(b[8:], ino)
	_, _ = h.Write(b[:])
	return h.Sum64()
}

// same reports whether st, which has the node's key, describes the node's own inode, and not a later one with its number. That the
// type is the same is what Open relies on: a parked node's descriptor is replaced only where this was asked.
func (n *node) same(st *unix.Statx_t) bool {
	return st.Btime == n.btime && uint32(st.Mode)&unix.S_IFMT == n.mode
}

type nodeList struct{ *list.List }

func (l *nodeList) init() { l.List = list.New() }

func (l *nodeList) add(n *node) { n.elem = l.PushBack(n) }

func (l *nodeList) drop(n *node) {
	if n.elem != nil {
		l.Remove(n.elem)
		n.elem = nil
	}
}

func keyOf(exp *export, st *unix.Statx_t) inodeKey {
	return inodeKey{exp: exp, dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, mnt: st.Mnt_id}
}

// checkName accepts what may be a name in a directory. The kernel in the guest never sends anything else.
func checkName(name string) fuse.Status {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fuse.EINVAL
	case len(name) > unix.NAME_MAX:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return fuse.OK
}

// addSynthetic makes a directory of the synthetic tree. fs.mu is held, or fs not yet shared.
func (fs *FS) addSynthetic(name string) *node {
	fs.lastNode++
	return fs.newSynthetic(fs.lastNode, name)
}

func (fs *FS) newSynthetic(id uint64, name string) *node {
	n := &node{id: id, mode: unix.S_IFDIR, fd: -1, pinned: true, name: name, children: map[string]*node{}}
	n.fakeIno = syntheticIno | n.id
	fs.nodes[n.id] = n
	return n
}

// addNode makes a node that owns fd. fs.mu is held.
func (fs *FS) addNode(exp *export, fd int, st *unix.Statx_t) *node {
	fs.lastNode++
	return fs.newNode(fs.lastNode, exp, fd, st)
}

func (fs *FS) newNode(id uint64, exp *export, fd int, st *unix.Statx_t) *node {
	n := &node{id: id, key: keyOf(exp, st), exp: exp, mode: uint32(st.Mode) & unix.S_IFMT, btime: st.Btime, fd: fd}
	fs.nodes[n.id] = n
	fs.byKey[n.key] = n
	fs.lru.add(n)
	return n
}

// use returns the node for a request, with its descriptor open until put.
func (fs *FS) use(id uint64) (*node, fuse.Status) { return fs.useBelow(id, 0) }

// useBelow is use, on the way up from a parked node that lies depth directories lower.
func (fs *FS) useBelow(id uint64, depth int) (*node, fuse.Status) {
	fs.mu.Lock()
	n := fs.nodes[id]
	if n == nil || n.gone || (n.exp != nil && n.exp.removed) {
		fs.mu.Unlock()
		return nil, fuse.Status(unix.ESTALE)
	}
	n.users++
	if n.elem != nil {
		fs.lru.MoveToBack(n.elem)
	}
	parked := n.fd < 0 && n.exp != nil
	fs.mu.Unlock()
	if parked {
		if code := fs.unpark(n, depth); code != fuse.OK {
			fs.put(n)
			return nil, code
		}
	}
	return n, fuse.OK
}

// useHost is use for requests that have no meaning on synthetic directories.
func (fs *FS) useHost(id uint64) (*node, fuse.Status) {
	n, code := fs.use(id)
	if code == fuse.OK && n.exp == nil {
		fs.put(n)
		return nil, fuse.EROFS
	}
	return n, code
}

// useWritable is useHost for requests that change something.
func (fs *FS) useWritable(id uint64) (*node, fuse.Status) {
	n, code := fs.useHost(id)
	if code == fuse.OK && n.exp.readOnly {
		fs.put(n)
		return nil, fuse.EROFS
	}
	return n, code
}

// put ends a use.
func (fs *FS) put(n *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n.users--
	if n.users == 0 && n.gone {
		fs.closeNode(n)
	}
}

// closeNode closes the node's descriptor. fs.mu is held.
func (fs *FS) closeNode(n *node) {
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
		fs.budget.give(1)
	}
}

// detach takes a node out of the tables; its descriptor is closed with the last user. fs.mu is held.
func (fs *FS) detach(n *node) {
	if n.gone {
		return
	}
	n.gone = true
	delete(fs.nodes, n.id)
	if fs.byKey[n.key] == n {
		delete(fs.byKey, n.key)
	}
	fs.lru.drop(n)
	fs.dropLocks(n)
	if n.users == 0 {
		fs.closeNode(n)
	}
}

// dropUnused detaches a node that neither the guest nor the export list knows. fs.mu is held.
func (fs *FS) dropUnused(n *node) {
	if n.nlookup == 0 && !n.pinned {
		fs.detach(n)
	}
}

// Forget takes back nlookup of the lookups that were answered with this node. A guest that forgets more than it was given
// only loses its own node.
func (fs *FS) Forget(id, nlookup uint64) {
	if id == fuse.FUSE_ROOT_ID {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil {
		return
	}
	n.nlookup -= min(nlookup, n.nlookup)
	fs.dropUnused(n)
}

// errRefused is why a kernel interface is not served.
var errRefused = errors.New("procfs, sysfs, cgroupfs and their like are not served to a guest: mount them inside it")

// servable refuses file systems through which the guest would act on the host's kernel or on this process.
func servable(fd int, st *unix.Statx_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG:
	default:
		return errors.New("neither a directory nor a regular file")
	}
	return refuseKernelFS(fd)
}

func refuseKernelFS(fd int) error {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return err
	}
	switch uint32(sfs.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.SELINUX_MAGIC,
		unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC, unix.BINFMTFS_MAGIC, unix.NSFS_MAGIC, unix.PID_FS_MAGIC, unix.SMACK_MAGIC,
		unix.AAFS_MAGIC, unix.XENFS_SUPER_MAGIC, unix.RDTGROUP_SUPER_MAGIC, unix.BINDERFS_SUPER_MAGIC,
		configfsMagic, fusectlMagic, mqueueMagic, nfsdMagic, rpcPipefsMagic, functionfsMagic, dlmfsMagic:
		return errRefused
	}
	return nil
}

// Magic numbers that golang.org/x/sys/unix lacks.
const (
	configfsMagic   = 0x62656570
	fusectlMagic    = 0x65735543
	mqueueMagic     = 0x19800202
	nfsdMagic       = 0x6e667364
	rpcPipefsMagic  = 0x67596969
	functionfsMagic = 0xa647361
	dlmfsMagic      = 0x76a9f425
)
