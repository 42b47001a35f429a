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

// defaultDevices are what every container has (runtime-spec, config-linux.md: Default Devices).
var defaultDevices = []agent.Device{
	{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "/dev/zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "/dev/full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "/dev/random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "/dev/urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "/dev/tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

var deviceLinks = []struct{ name, target string }{
	{"/dev/fd", "/proc/self/fd"},
	{"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"},
}

// devices makes the nodes and links of /dev, unless the config binds one of its own there.
func (b *builder) devices() error {
	if !b.devs {
		return nil
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, list := range [][]agent.Device{b.m.Devices, defaultDevices} { // a config's own null is the one that stays
		for i := range list {
			if err := b.device(&list[i]); err != nil {
				return wrap("device "+strconv.Quote(list[i].Path), err)
			}
		}
	}
	for _, l := range deviceLinks {
		if err := b.link(l.name, l.target, false); err != nil {
			return wrap(l.name, err)
		}
	}
	return wrap("/dev/ptmx", b.link("/dev/ptmx", "pts/ptmx", true))
}

func (b *builder) device(d *agent.Device) error {
	if strings.HasSuffix(d.Path, "/ptmx") && path.Dir(d.Path) == "/dev" {
		return nil // the link to the container's own
	}
	native, number := path.Base(d.Path), unix.Mkdev(d.Major, d.Minor)
	if d.Disk != "" {
		var err error
		if native, number, err = findDisk(d.Disk); err != nil {
			return err
		}
	}
	parent, err := b.root.target(path.Dir(path.Join("/", d.Path)), true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	name := path.Base(d.Path)
	err = unix.Mknodat(parent, name, d.Mode, int(number))
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EPERM):
		return b.bindDevice(d, native)
	case err != nil:
		return os.NewSyscallError("mknod", err)
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	return os.NewSyscallError("fchownat", unix.Fchownat(parent, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW))
}

// findDisk returns the name and number that this kernel gave a virtio block device: on the host it has others.
func findDisk(serial string) (name string, number uint64, err error) {
	disks, err := os.ReadDir(blockDir)
	if err != nil {
		return "", 0, err
	}
	for _, disk := range disks {
		dir := path.Join(blockDir, disk.Name())
		if b, err := os.ReadFile(dir + "/serial"); err != nil || strings.TrimSpace(string(b)) != serial {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path.Join("/dev", disk.Name()), &st); err != nil {
			return "", 0, wrap(disk.Name(), err)
		}
		return disk.Name(), st.Rdev, nil
	}
	return "", 0, failure(agent.Invalid, "the guest kernel found no virtio block device "+serial+": it needs CONFIG_VIRTIO_BLK")
}

// bindDevice shows the node that the guest itself has of that name where the file system of /dev takes none.
func (b *builder) bindDevice(d *agent.Device, name string) error {
	tree, err := cloneTree(unix.AT_FDCWD, path.Join("/dev", name), false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	target, err := b.root.target(d.Path, false)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return b.root.attach(tree, target)
}

// link makes a symbolic link; one that exists stays, unless it is to be replaced.
func (b *builder) link(name, to string, replace bool) error {
	parent, err := b.root.target(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	err = unix.Symlinkat(to, parent, path.Base(name))
	if errors.Is(err, unix.EEXIST) && replace {
		_ = unix.Unlinkat(parent, path.Base(name), 0)
		err = unix.Symlinkat(to, parent, path.Base(name))
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return os.NewSyscallError("symlinkat", err)
}

// openTerminal makes a terminal in the container's devpts and puts its slave at the standard streams.
func (e *execution) openTerminal(r *root) (slave int, err error) {
	pts, err := r.open("/dev/pts", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, wrap("terminal", err)
	}
	defer unix.Close(pts)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pts, &fs); err != nil {
		return -1, os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return -1, failure(agent.Invalid, "terminal: /dev/pts of the container is not a devpts: add the mount to config.json")
	}
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if e.master, err = unix.Openat2(pts, "ptmx", &how); err != nil {
		return -1, wrap("terminal: open /dev/pts/ptmx", err)
	}
	if err := unix.IoctlSetPointerInt(e.master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("TIOCSPTLCK", err)
	}
	// By the master, not by its name: the name is the container's.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, os.NewSyscallError("TIOCGPTPEER", errno)
	}
	if e.p.Rows != 0 || e.p.Cols != 0 {
		size := &unix.Winsize{Row: e.p.Rows, Col: e.p.Cols}
		if err := unix.IoctlSetWinsize(e.master, unix.TIOCSWINSZ, size); err != nil {
			return -1, os.NewSyscallError("TIOCSWINSZ", err)
		}
	}
	for i := range 3 {
		if err := unix.Dup3(int(fd), i, 0); err != nil {
			return -1, os.NewSyscallError("dup3", err)
		}
	}
	return int(fd), nil
}

// console shows the terminal at /dev/console.
func (b *builder) console(slave int) error {
	tree, err := cloneTree(slave, "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	target, err := b.root.target("/dev/console", false)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return b.root.attach(tree, target)
}
