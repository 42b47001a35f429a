package guest

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ownTop is a file system of the guest's own on a directory right below the container's root: /proc, /dev, /sys. What is
// in it is reached from its descriptor. A walk through the root file system asks the host for each component twice, every time
// (docs/filesystem.md, C1), and some forty walks of a start are for nodes of /dev and for masked files.
type ownTop struct {
	name  string // without the slash
	fd    int    // O_PATH of its root
	mount uint64 // the mount's id
}

// straight keeps a walk below the directory in which it begins, and from links, which could lead to anywhere.
const straight = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openOwn opens what is reached from one of r's own, as the walk from the container's root would find it. It is not ok where
// only that walk can tell.
func (r *root) openOwn(name string, flags int) (fd int, ok bool, err error) {
	if path.Clean(name) != name {
		return -1, false, nil
	}
	top, below, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if below == "" {
		below = "."
	}
	for _, t := range r.own {
		if t.name == top {
			fd, err := openBelow(t.fd, below, flags, straight)
			if errors.Is(err, unix.ENOENT) {
				return -1, true, &os.PathError{Op: "open", Path: name, Err: unix.ENOENT}
			}
			return fd, err == nil, err
		}
	}
	return -1, false, nil
}

// openTop opens the mount point of a file system that may become one of r's own: a directory right below the root.
func (r *root) openTop(name string) (fd int, ok bool) {
	top := strings.TrimPrefix(path.Join("/", name), "/")
	if top == "" || strings.Contains(top, "/") {
		return -1, false
	}
	fd, err := openBelow(r.fd, top, unix.O_PATH|unix.O_DIRECTORY, straight)
	return fd, err == nil
}

// keep makes tree, which is mounted on what openTop opened, one of r's own. The descriptor is r's from then on.
func (r *root) keep(name string, tree int) {
	id, _ := mountRoot(tree)
	r.own = append(r.own, ownTop{strings.TrimPrefix(path.Join("/", name), "/"), tree, id})
}

// attach mounts tree on target, and forgets those of r's own that it hides from a walk. Only what lies on the root of one, or on
// the container's, does: there is nothing else on the way to them.
func (r *root) attach(tree, target int) error {
	if err := attach(tree, target); err != nil {
		return err
	}
	if len(r.own) == 0 {
		return nil
	}
	id, isRoot := mountRoot(target)
	if !isRoot {
		return nil
	}
	container, _ := mountRoot(r.fd)
	kept := r.own[:0]
	for _, t := range r.own {
		if id == t.mount || id == container || id == 0 {
			unix.Close(t.fd)
			continue
		}
		kept = append(kept, t)
	}
	r.own = kept
	return nil
}

// mountRoot returns the id of the mount that fd is on, 0 if it cannot be told, and whether it is its root. The host is not asked.
func mountRoot(fd int) (id uint64, isRoot bool) {
	var st unix.Statx_t
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if unix.Statx(fd, "", flags, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 || st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return 0, true
	}
	return st.Mnt_id, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
