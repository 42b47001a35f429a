// Package sandbox makes the two file trees of a container's monitor (docs/design.md): what virtio-fs exports, held by
// descriptors, and what engines see when they enter the monitor's mount namespace, which it pivots to. They are two,
// because engines need a procfs in theirs, and a guest that could walk it would read the monitor's own memory.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// StepKind says what stands at a mount point in the engines' view.
type StepKind int

// The kinds of Step.
const (
	Bind  StepKind = iota // the host's source itself
	Proc                  // a procfs of the monitor's PID namespace: engines read it
	Cover                 // an empty read-only tmpfs: in the guest something else is mounted there
)

// Step is one mount of the config, in its order.
type Step struct {
	Kind      StepKind
	Source    string // Bind: a host path
	Target    string // in the container
	Recursive bool   // Bind: with the mounts below source
	ReadOnly  bool   // Bind
}

// Tree is what the guest may see of the host.
type Tree struct {
	// Root is a clone of the root file system's mount, without what is mounted on it.
	Root *os.File
	// Sources has one descriptor per step, nil where the step is not a Bind.
	Sources []*os.File
	// ProcSelfFD is /proc/self/fd, which the pivoted tree does not have.
	ProcSelfFD *os.File

	namespace *os.File // of the recursive sources, see keep.go
}

// Enter builds both trees in the calling process's mount namespace, which must be its own, and pivots to the engines'
// view. Just before, when all mounts are made and the host's tree is still there, it calls beforePivot. On failure the
// namespace is in an undefined state: the caller exits.
func Enter(rootfs string, steps []Step, beforePivot func() error) (*Tree, error) {
	// Host mounts made later still arrive (slave); nothing of ours leaks out.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make / a slave mount: %w", err)
	}
	t := &Tree{Sources: make([]*os.File, len(steps))}
	var err error
	if t.ProcSelfFD, err = openPath("/proc/self/fd", unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	if t.Root, err = cloneTree(rootfs, false); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if err := t.openSources(rootfs, steps); err != nil {
		return nil, err
	}
	if err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("rootfs %q: bind: %w", rootfs, err)
	}
	v := &view{proc: t.ProcSelfFD}
	if v.root, err = openPath(rootfs, unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	defer v.root.Close()
	for i, s := range steps {
		if err := v.mount(s, t.Sources[i]); err != nil {
			return nil, fmt.Errorf("mount %q: %w", s.Target, err)
		}
	}
	if err := beforePivot(); err != nil {
		return nil, err
	}
	return t, v.pivot()
}

func openPath(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func cloneTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openSources opens what the bind mounts export. A recursive one shows the mounts below it as they come and go; one that
// is not must hide them, so it is a clone of its one mount.
func (t *Tree) openSources(rootfs string, steps []Step) (err error) {
	if slices.ContainsFunc(steps, func(s Step) bool { return s.Kind == Bind && s.Recursive }) {
		if t.Sources, t.namespace, err = keepSources(rootfs, steps); err != nil {
			return err
		}
	}
	for i, s := range steps {
		if s.Kind != Bind || s.Recursive {
			continue
		}
		if t.Sources[i], err = cloneTree(s.Source, false); err != nil {
			return fmt.Errorf("mount source %q: %w", s.Source, err)
		}
	}
	return nil
}

// view is the engines' tree while it is being built; root is its root directory.
type view struct {
	root *os.File
	proc *os.File
}

func (v *view) mount(s Step, source *os.File) error {
	dir := true
	if s.Kind == Bind {
		var st unix.Stat_t
		if err := unix.Fstatat(int(source.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
			return os.NewSyscallError("fstatat", err)
		}
		dir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	if s.Kind == Proc && v.diverts(s.Target) {
		return errors.New(`filesystem "proc" must be mounted on ordinary directory`) // runc's words
	}
	target, err := v.target(s.Target, dir)
	if errors.Is(err, unix.EROFS) {
		// Below a mount of the guest's own: the guest makes this mount point, engines cannot see it.
		return nil
	} else if err != nil {
		return err
	}
	defer target.Close()
	path := fdPath(target)
	switch s.Kind {
	case Proc:
		err = unix.Mount("proc", path, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	case Cover:
		err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,mode=755")
	default:
		err = v.bind(s, path)
	}
	return err
}

func (v *view) bind(s Step, path string) error {
	tree, err := cloneTree(s.Source, s.Recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if s.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return os.NewSyscallError("mount_setattr", err)
		}
	}
	err = unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	return os.NewSyscallError("move_mount", err)
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// maxLinks is how many links that lead nowhere yet a mount point may have (path_resolution(7)).
const maxLinks = 40

// target opens the mount point path below the root, making what is missing of it, behind links that lead nowhere too. Links are
// resolved as the container would: they cannot lead out of its root.
func (v *view) target(path string, dir bool) (*os.File, error) {
	links := 0
	return v.make(filepath.Join("/", path), dir, &links)
}

// make is target for a path that may hold "..", behind what is a link and what is not.
func (v *view) make(path string, dir bool, links *int) (*os.File, error) {
	if f, err := v.resolve(path); err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	above, name := split(path)
	parent, err := v.make(above, true, links)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	link := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(int(parent.Fd()), name, link); err == nil {
		if *links++; *links > maxLinks {
			return nil, &os.PathError{Op: "create mount point", Path: path, Err: unix.ELOOP}
		}
		to := strings.TrimRight(string(link[:n]), "/")
		if !filepath.IsAbs(to) {
			to = above + "/" + to
		}
		return v.make(to, dir, links)
	}
	if dir {
		err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	} else {
		var fd int
		if fd, err = unix.Openat(int(parent.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			unix.Close(fd)
		}
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "create mount point", Path: path, Err: err}
	}
	return v.resolve(path)
}

// split cuts the last name off an absolute path. It keeps "..": what is above a link is not above its name.
func split(path string) (above, name string) {
	i := strings.LastIndexByte(path, '/')
	return "/" + strings.Trim(path[:i], "/"), path[i+1:]
}

// diverts says whether something other than a directory stands at path itself.
func (v *view) diverts(path string) bool {
	path = filepath.Join("/", path)
	parent, err := v.resolve(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer parent.Close()
	var st unix.Stat_t
	return unix.Fstatat(int(parent.Fd()), filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR
}

func (v *view) resolve(path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(v.root.Fd()), path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// pivot makes the view the root of the namespace.
func (v *view) pivot() error {
	if err := unix.Fchdir(int(v.root.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	return pivotHere()
}

// pivotHere makes the working directory the root and drops the host's tree (pivot_root(2): pivot_root(".", ".")).
func pivotHere() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}
