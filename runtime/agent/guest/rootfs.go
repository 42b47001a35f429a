package guest

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// builder makes a container's tree, in its mount namespace.
type builder struct {
	m      *agent.CreateContainer
	export *root // the exported tree
	root   *root
	point  string // where the root is mounted
	proc   int    // PID 1's /proc: whatever the image puts at its own
	devs   bool
	nodes  int // O_PATH of the tmpfs with the relayed sockets, -1 without
	listen []int
	late   []string // mount points to become read-only when all below them is made
}

func (e *execution) makeContainer(m *agent.CreateContainer) error {
	b := &builder{m: m, devs: true, nodes: -1}
	if err := b.open(os.Args[1], os.Args[2]); err != nil {
		return err
	}
	for i := range m.Mounts {
		mt := &m.Mounts[i]
		if err := b.mount(mt); err != nil {
			return wrap("error mounting "+strconv.Quote(mt.Source)+" to rootfs at "+strconv.Quote(mt.Target), err)
		}
	}
	e.sockets = b.listen
	if err := b.devices(); err != nil {
		return err
	}
	if err := b.settings(); err != nil {
		return err
	}
	if e.p.Terminal {
		slave, err := e.openTerminal(b.root)
		if err != nil {
			return err
		}
		if err := b.console(slave); err != nil {
			return wrap("bind /dev/console", err)
		}
	}
	if e.p.Cwd != "" {
		// runc makes a missing one here, though not for exec.
		if fd, err := b.root.target(e.p.Cwd, true); err == nil {
			unix.Close(fd)
		}
	}
	if err := b.protect(); err != nil {
		return err
	}
	return b.pivot()
}

// open mounts the root file system on scratch and opens everything that is needed of PID 1's own tree.
func (b *builder) open(scratch, export string) (err error) {
	b.point = scratch
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return wrap("make / private", err)
	}
	if b.export, err = openRoot(export); err != nil {
		return err
	}
	if b.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return wrap("/proc", err)
	}
	tree, err := b.exported(b.m.Rootfs.Source, true)
	if err != nil {
		return wrap("rootfs", err)
	}
	defer unix.Close(tree)
	if err := b.openSockets(scratch); err != nil {
		return err
	}
	point, err := openRoot(scratch)
	if err != nil {
		return err
	}
	defer point.close()
	if err := attach(tree, point.fd); err != nil {
		return wrap("rootfs", err)
	}
	b.root, err = openRoot(scratch)
	return err
}

// exported clones a mount of the exported tree.
func (b *builder) exported(name string, recursive bool) (int, error) {
	fd, err := b.export.open(relative(name), unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return cloneTree(fd, "", recursive)
}

func (b *builder) mount(m *agent.Mount) error {
	if path.Join("/", m.Target) == "/" {
		return failure(agent.Invalid, "a mount cannot cover the root file system")
	}
	if m.Flags&unix.MS_REMOUNT != 0 {
		return failure(agent.Invalid, "option remount is not supported")
	}
	var err error
	if m.Socket.Kind != 0 {
		err = b.socket(m)
	} else if m.Bind {
		err = b.bind(m)
	} else {
		err = b.fresh(m)
	}
	if err != nil {
		return err
	}
	if path.Join("/", m.Target) == "/dev" {
		b.devs = !m.Bind
	}
	if m.RecAttrSet|m.RecAttrClear|m.Propagation == 0 {
		return nil
	}
	fd, err := b.root.open(m.Target, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := setAttr(fd, m.RecAttrSet, m.RecAttrClear, true); err != nil {
		return err
	}
	return setPropagation(fd, m.Propagation)
}

func (b *builder) bind(m *agent.Mount) error {
	tree, err := b.exported(m.Source, m.Recursive)
	if err != nil {
		return err
	}
	return b.attach(m, tree)
}

// attach mounts tree, which it closes, at m's target with m's flags.
func (b *builder) attach(m *agent.Mount, tree int) error {
	defer unix.Close(tree)
	set := attributes(m.Flags)
	if err := setAttr(tree, set, attributes(m.Clear)&^unix.MOUNT_ATTR__ATIME|atime(m.Flags|m.Clear), false); err != nil {
		return err
	}
	target, err := b.root.target(m.Target, isDir(tree))
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if isDir(tree) != isDir(target) {
		return &os.PathError{Op: "bind", Path: m.Target, Err: unix.ENOTDIR} // move_mount says EINVAL
	}
	return b.root.attach(tree, target)
}

// fresh mounts a file system of the guest's own.
func (b *builder) fresh(m *agent.Mount) error {
	kind, data, flags := m.Type, m.Data, m.Flags
	switch kind {
	case "cgroup":
		kind, data = "cgroup2", "" // version 1 is not in the guest; its options name controllers
	case "tmpfs":
		if flags&unix.MS_RDONLY != 0 {
			flags &^= unix.MS_RDONLY
			b.late = append(b.late, m.Target)
		}
	case "proc", "sysfs", "devpts", "mqueue", "cgroup2", "ramfs":
	default:
		return failure(agent.Invalid, "unsupported file system type "+strconv.Quote(kind))
	}
	target, top := b.root.openTop(m.Target)
	if !top {
		// As under runc: an image must not choose where they come to lie.
		if (kind == "proc" || kind == "sysfs") && b.root.diverts(m.Target) {
			return failure(agent.Invalid, "filesystem "+strconv.Quote(kind)+" must be mounted on ordinary directory")
		}
		var err error
		if target, err = b.root.target(m.Target, true); err != nil {
			return err
		}
	}
	defer unix.Close(target)
	tree, err := b.mountFresh(m.Source, kind, uintptr(flags), data)
	if err != nil {
		return err
	}
	if err := b.root.attach(tree, target); err != nil {
		unix.Close(tree)
		return err
	}
	if m.CopyUp {
		err = wrap("tmpcopyup", copyTree(target, tree))
	}
	if top {
		b.root.keep(m.Target, tree)
	} else {
		unix.Close(tree)
	}
	return err
}

// mountFresh mounts a file system above the container's root, from where it is then moved: what mount(2) puts on a directory can
// be opened by a walk from the root only.
func (b *builder) mountFresh(source, kind string, flags uintptr, data string) (int, error) {
	if err := unix.Mount(source, b.point, kind, flags, data); err != nil {
		return -1, os.NewSyscallError("mount "+kind, err)
	}
	fd, err := unix.Open(b.point, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open", err)
}

// settings are the host name and the kernel parameters.
func (b *builder) settings() error {
	if b.m.Hostname != "" {
		if err := unix.Sethostname([]byte(b.m.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if b.m.Domainname != "" {
		if err := unix.Setdomainname([]byte(b.m.Domainname)); err != nil {
			return os.NewSyscallError("setdomainname", err)
		}
	}
	for _, s := range b.m.Sysctls {
		if err := b.sysctl(s); err != nil {
			return wrap("sysctl "+s.Name, err)
		}
	}
	return nil
}

func (b *builder) sysctl(s agent.Sysctl) error {
	name := s.Name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name) // sysctl(8)
	}
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(b.proc, "sys/"+relative(name), &how)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(s.Value))
	return err
}

// protect makes read-only and hides what the config says, in runc's order.
func (b *builder) protect() error {
	for _, name := range b.m.ReadonlyPaths {
		if err := b.readonly(name); err != nil {
			return wrap("readonly path "+strconv.Quote(name), err)
		}
	}
	mask := masker{root: b.root, null: -1, empty: -1}
	defer mask.close()
	for _, name := range b.m.MaskedPaths {
		if err := mask.hide(name); err != nil {
			return wrap("masked path "+strconv.Quote(name), err)
		}
	}
	for _, name := range b.late {
		fd, err := b.root.open(name, unix.O_PATH)
		if err != nil {
			return err
		}
		err = setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, false)
		unix.Close(fd)
		if err != nil {
			return wrap("readonly mount "+strconv.Quote(name), err)
		}
	}
	if b.m.Rootfs.Readonly {
		return wrap("readonly rootfs", setAttr(b.root.fd, unix.MOUNT_ATTR_RDONLY, 0, false))
	}
	return nil
}

func (b *builder) readonly(name string) error {
	fd, err := b.root.open(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := cloneTree(fd, "", true)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
		return err
	}
	return b.root.attach(tree, fd)
}

// masker hides paths: a file behind /dev/null, a directory behind one empty file system that all of them share.
type masker struct {
	root        *root
	null, empty int
}

func (k *masker) close() {
	for _, fd := range []int{k.null, k.empty} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (k *masker) hide(name string) error {
	fd, err := k.root.open(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isDir(fd) {
		return k.hideDir(fd)
	}
	if k.null < 0 {
		if k.null, err = unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
	}
	tree, err := cloneTree(k.null, "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return k.root.attach(tree, fd)
}

func (k *masker) hideDir(fd int) error {
	if k.empty >= 0 {
		tree, err := cloneTree(k.empty, "", false)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		return k.root.attach(tree, fd)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	const attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if k.empty, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr); err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	return k.root.attach(k.empty, fd)
}

// pivot makes the tree the root and drops PID 1's (pivot_root(2): pivot_root(".", ".")).
func (b *builder) pivot() error {
	if err := unix.Fchdir(b.root.fd); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return wrap("detach the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	// Only now: from a shared mount's tree no root can be pivoted.
	return setPropagation(b.root.fd, b.m.Rootfs.Propagation)
}
