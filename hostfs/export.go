package hostfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
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
	// Name is the slash-separated place of the export below the FUSE root, such as "c1/0". The empty name makes a directory
	// the FUSE root itself; it is then the only export.
	Name string
	// Dir is any descriptor of a directory or regular file, O_PATH suffices. hostfs duplicates it: the caller keeps its own.
	Dir      *os.File
	ReadOnly bool
	// Main makes the directory a part of the FUSE root's file system in the guest, instead of one of its own. It can be said of one
	// export. Writing to it takes a request less: Linux (6.12) forgets SB_NOSEC where it mounts a file system below another
	// (fuse_fill_super_submount), and asks for security.capability before each write there.
	Main  bool
	Cache CachePolicy
}

type export struct {
	name     string
	readOnly bool
	cache    CachePolicy
	main     bool
	root     *node
	removed  bool // guarded by FS.mu
}

// checkExportName accepts "" and relative paths in their shortest form.
func checkExportName(name string) error {
	for n := range strings.SplitSeq(name, "/") {
		if name != "" && checkName(n) != fuse.OK {
			return fmt.Errorf("hostfs: export name %q: not a relative path in its shortest form", name)
		}
	}
	return nil
}

// Add starts serving another export.
func (fs *FS) Add(e Export) error {
	if e.Dir == nil {
		return fmt.Errorf("hostfs: export %q: no directory", e.Name)
	}
	if err := checkExportName(e.Name); err != nil {
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
	if err := fs.attach(e, fd, &st); err != nil {
		unix.Close(fd)
		fs.budget.give(1)
		return err
	}
	return nil
}

// attach puts an export into the tree. fs.mu is held.
func (fs *FS) attach(e Export, fd int, st *unix.Statx_t) error {
	if fs.closed {
		return fmt.Errorf("hostfs: export %q: %w", e.Name, os.ErrClosed)
	}
	exp := &export{name: e.Name, readOnly: e.ReadOnly, cache: e.Cache, main: e.Main}
	place := fs.attachBelow
	if e.Name == "" {
		place = fs.attachRoot
	}
	n, err := place(exp, fd, st)
	if err != nil {
		return fmt.Errorf("hostfs: export %q: %w", e.Name, err)
	}
	n.pinned = true
	exp.root = n
	fs.exports[e.Name] = exp
	return nil
}

// attachRoot makes an export the FUSE root itself. fs.mu is held.
func (fs *FS) attachRoot(exp *export, fd int, st *unix.Statx_t) (*node, error) {
	switch {
	case len(fs.exports) > 0:
		return nil, errors.New("there is no place beside the root: it has to be the only export")
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, errors.New("the root is not a directory: give the single file a name")
	}
	fs.detach(fs.root)
	fs.root = fs.newNode(fuse.FUSE_ROOT_ID, exp, fd, st)
	return fs.root, nil
}

// attachBelow gives an export its place in the synthetic tree. fs.mu is held.
func (fs *FS) attachBelow(exp *export, fd int, st *unix.Statx_t) (*node, error) {
	if err := fs.checkMain(exp, st); err != nil {
		return nil, err
	}
	names := strings.Split(exp.name, "/")
	if fs.root.children == nil {
		return nil, errors.New("the root itself is an export")
	}
	dir, missing := fs.root, len(names)-1
	for i, name := range names[:len(names)-1] {
		next := dir.children[name]
		if next == nil {
			missing = i
			break
		}
		if next.children == nil {
			return nil, errors.New("it would lie inside another export")
		}
		dir = next
	}
	last := names[len(names)-1]
	if missing == len(names)-1 && dir.children[last] != nil {
		return nil, errors.New("the name is in use")
	}
	for _, name := range names[missing : len(names)-1] {
		next := fs.addSynthetic(name)
		next.parent = dir
		dir.children[name] = next
		dir = next
	}
	n := fs.addNode(exp, fd, st)
	n.parent, n.name = dir, last
	if !exp.main {
		n.crossed()
	}
	dir.children[last] = n
	return n, nil
}

// checkMain refuses a second main export: its inode numbers could be those of the first. fs.mu is held.
func (fs *FS) checkMain(exp *export, st *unix.Statx_t) error {
	if !exp.main {
		return nil
	}
	for _, other := range fs.exports {
		if other.main {
			return fmt.Errorf("export %q is the main one already", other.name)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New("the main export is not a directory")
	}
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
	if exp.root == fs.root {
		fs.root = fs.newSynthetic(fuse.FUSE_ROOT_ID, "")
		return nil
	}
	fs.prune(exp.root)
	return nil
}

// prune takes a node's name, and the synthetic directories that are empty without it, out of the tree. fs.mu is held.
func (fs *FS) prune(n *node) {
	dir := n.parent
	delete(dir.children, n.name)
	for ; dir != fs.root && len(dir.children) == 0; dir = dir.parent {
		delete(dir.parent.children, dir.name)
		dir.pinned = false
		fs.dropUnused(dir)
	}
}
