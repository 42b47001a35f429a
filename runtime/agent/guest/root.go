package guest

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// root resolves paths inside a container's tree. The image is somebody else's and its processes may be running: every
// resolution is one openat2 that cannot leave the tree, by a link or by a race, and what is done then is done to the
// descriptor.
type root struct {
	fd  int
	own []ownTop // what this process has mounted itself right below the root
}

func openRoot(dir string) (*root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &root{fd: fd}, nil
}

func (r *root) close() {
	unix.Close(r.fd)
	for _, t := range r.own {
		unix.Close(t.fd)
	}
}

// open opens a path of the container.
func (r *root) open(name string, flags int) (int, error) {
	if fd, ok, err := r.openOwn(name, flags); ok {
		return fd, err
	}
	return openBelow(r.fd, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func openBelow(dirfd int, name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	var fd int
	var err error
	for range 16 { // EAGAIN: something was renamed meanwhile (openat2(2))
		fd, err = unix.Openat2(dirfd, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// diverts says whether something other than a directory stands at name itself.
func (r *root) diverts(name string) bool {
	name = path.Join("/", name)
	parent, err := r.open(path.Dir(name), unix.O_PATH)
	if err != nil {
		return false
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	return unix.Fstatat(parent, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR
}

// maxLinks is how many links that lead nowhere yet a mount point may have (path_resolution(7)).
const maxLinks = 40

// target opens a mount point and makes what is missing of it, behind links that lead nowhere too.
func (r *root) target(name string, dir bool) (int, error) {
	links := 0
	return r.make(path.Join("/", name), dir, &links)
}

// make is target for a path that may hold "..", behind what is a link and what is not.
func (r *root) make(name string, dir bool, links *int) (int, error) {
	fd, err := r.open(name, unix.O_PATH)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	above, last := split(name)
	parent, err := r.make(above, true, links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	link := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(parent, last, link); err == nil {
		if *links++; *links > maxLinks {
			return -1, &os.PathError{Op: "create mount point", Path: name, Err: unix.ELOOP}
		}
		to := strings.TrimRight(string(link[:n]), "/")
		if !path.IsAbs(to) {
			to = above + "/" + to
		}
		return r.make(to, dir, links)
	}
	if dir {
		err = unix.Mkdirat(parent, last, 0o755)
	} else {
		var f int
		if f, err = unix.Openat(parent, last, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644); err == nil {
			unix.Close(f)
		}
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &os.PathError{Op: "create mount point", Path: name, Err: err}
	}
	return r.open(name, unix.O_PATH)
}

// split cuts the last name off an absolute path. It keeps "..": what is above a link is not above its name.
func split(name string) (above, last string) {
	i := strings.LastIndexByte(name, '/')
	return "/" + strings.Trim(name[:i], "/"), name[i+1:]
}

// fdPath names a descriptor for the calls that take paths only. It needs PID 1's /proc.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// isDir does not ask the host: a file that is open does not become another kind of file.
func isDir(fd int) bool {
	var st unix.Statx_t
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// cloneTree makes a mount of what name shows, that is not attached yet.
func cloneTree(dirfd int, name string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dirfd, name, flags)
	return fd, os.NewSyscallError("open_tree", err)
}

// attach mounts tree on target.
func attach(tree, target int) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", target, "", flags))
}

func setAttr(fd int, set, clear uint64, recursive bool) error {
	if set == 0 && clear == 0 {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear}))
}

func setPropagation(fd int, flags uint64) error {
	if flags == 0 {
		return nil
	}
	at := uint(unix.AT_EMPTY_PATH)
	if flags&unix.MS_REC != 0 {
		at |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Propagation: flags &^ unix.MS_REC}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", at, &attr))
}

// attributes are the MOUNT_ATTR_* of mount(2)'s flags.
func attributes(flags uint64) uint64 {
	var a uint64
	for _, p := range []struct{ flag, attr uint64 }{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME}, {unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&p.flag != 0 {
			a |= p.attr
		}
	}
	return a
}

// atime says whether flags choose how access times are kept: one field of the attributes, to be cleared as a whole.
func atime(flags uint64) uint64 {
	if flags&(unix.MS_NOATIME|unix.MS_STRICTATIME|unix.MS_RELATIME) != 0 {
		return unix.MOUNT_ATTR__ATIME
	}
	return 0
}

// relative keeps a path of the exported tree inside it.
func relative(name string) string {
	return strings.TrimPrefix(path.Join("/", name), "/")
}
