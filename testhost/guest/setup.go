package guest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setup brings the guest from the initramfs to the machine's own root file
// system. What a command can live without is a warning.
func setup() (warnings []string, err error) {
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	} {
		if err := m.do(); err != nil {
			return nil, err
		}
	}
	needed, later, err := moduleLists()
	if err != nil {
		return nil, err
	}
	if err := loadModules(needed); err != nil {
		return nil, err
	}
	tree, err := os.ReadFile(ModuleTree)
	if err != nil {
		return nil, err
	}
	warn := func(err error) {
		if err != nil {
			warnings = append(warnings, err.Error())
		}
	}
	// These take as long as the mounts below: side by side on two CPUs. The
	// modules' files are opened before the root changes.
	loaded := make(chan error, 1)
	files, err := openModules(later)
	if err != nil {
		return nil, err
	}
	go func() { loaded <- insertModules(files) }()
	if err := switchRoot(); err != nil {
		return nil, err
	}
	warn(mountModuleTree(strings.TrimSpace(string(tree))))
	for _, m := range runtimeMounts {
		warn(m.do())
	}
	warn(enableControllers())
	warn(mountScratch())
	warn(loopbackUp())
	deviceLinks()
	raiseLimits()
	warn(<-loaded)
	return warnings, nil
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// runtimeMounts are made on the machine's root. /tmp is not among them: files
// that the caller put there must be visible.
var runtimeMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"hugetlbfs", "/dev/hugepages", "hugetlbfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	{"tmpfs", "/run/lock", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777,size=16m"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
	{"securityfs", "/sys/kernel/security", "securityfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"debugfs", "/sys/kernel/debug", "debugfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=700"},
	{"tracefs", "/sys/kernel/tracing", "tracefs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=700"},
}

// Places of the layers, in the initramfs.
const (
	lowerDir = "/lower"
	layerDir = "/layer"
	newRoot  = "/newroot"
)

// lower is an O_PATH descriptor of the shared root, for bind mounts of --rw.
// The mount stays attached, below the new root: Linux 6.1 clones no detached
// ones.
var lower = -1

// switchRoot mounts the shared root below a tmpfs and makes the pair the root.
func switchRoot() error {
	for _, m := range []mount{
		{RootTag, lowerDir, "virtiofs", unix.MS_NOATIME, ""},
		{"tmpfs", layerDir, "tmpfs", 0, "mode=755,size=75%"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, d := range []string{layerDir + "/upper", layerDir + "/work", newRoot} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	opts := "lowerdir=" + lowerDir + ",upperdir=" + layerDir + "/upper,workdir=" + layerDir + "/work"
	if err := (mount{"overlay", newRoot, "overlay", 0, opts}).do(); err != nil {
		return err
	}
	var err error
	if lower, err = unix.Open(lowerDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", lowerDir, err)
	}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		if err := os.MkdirAll(newRoot+d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(d, newRoot+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return unix.Chdir("/")
}

// mountModuleTree puts the kernel's modules where modprobe looks for them.
func mountModuleTree(tree string) error {
	dst := "/lib/modules/" + path.Base(tree)
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(tree, dst, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", tree, err)
	}
	return nil
}

// enableControllers gives every controller to the children of the root cgroup.
func enableControllers() error {
	const root = "/sys/fs/cgroup/"
	b, err := os.ReadFile(root + "cgroup.controllers")
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range strings.Fields(string(b)) {
		if err := os.WriteFile(root+"cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			errs = append(errs, fmt.Errorf("controller %s: %w", c, err))
		}
	}
	return errors.Join(errs...)
}

// ScratchSerial is the serial number of the scratch disk, set by the runner.
const ScratchSerial = "scratch"

func mountScratch() error {
	const target = "/scratch"
	dev := ""
	for range 300 {
		if dev = diskBySerial(ScratchSerial); dev != "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if dev == "" {
		return errors.New("scratch disk did not appear")
	}
	if err := (mount{dev, target, "ext4", unix.MS_NOATIME, ""}).do(); err != nil {
		return err
	}
	if err := os.MkdirAll(target+"/tmp", 0o777); err != nil {
		return err
	}
	return os.Chmod(target+"/tmp", 0o1777)
}

func diskBySerial(serial string) string {
	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		return ""
	}
	for _, d := range disks {
		b, err := os.ReadFile("/sys/block/" + d.Name() + "/serial")
		if err == nil && strings.TrimSpace(string(b)) == serial {
			return "/dev/" + d.Name()
		}
	}
	return ""
}

// deviceLinks makes the links in /dev that udev would make.
func deviceLinks() {
	for link, target := range map[string]string{
		"/dev/fd":     "/proc/self/fd",
		"/dev/stdin":  "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2",
	} {
		_ = os.Symlink(target, link)
	}
	_ = os.Chmod("/dev/fuse", 0o666)
	_ = os.Chmod("/dev/net/tun", 0o666)
}

// raiseLimits gives commands the limits that a service of systemd has.
func raiseLimits() {
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 524288})
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY})
	unix.Umask(0o022)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("SIOCSIFFLAGS lo", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}
