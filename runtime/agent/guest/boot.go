package guest

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// Where PID 1 has its own things.
const (
	exportDir  = "/run/govmm/fs"
	scratchDir = "/run/govmm/root"
	cgroupDir  = "/sys/fs/cgroup"
	blockDir   = "/sys/block"
	// containersDir is the cgroup above all containers.
	containersDir = cgroupDir + "/containers"
)

// Boot makes the guest's own mounts, as PID 1 that the kernel has just started from an initramfs, and returns how to
// serve the host. mdlayher/vsock carries the streams: beside raw sockets it costs 0.3 MB of the binary's 2.6 and 0.11
// million of its 2.9 million instructions to start and end (a Go hello world takes 2.35), which is not worth a second
// implementation of what it does.
func Boot() (Config, error) {
	phases := agent.Phases{Init: BootTime()}
	if err := newRoot(); err != nil {
		return Config{}, wrap("make the root", err)
	}
	for _, m := range []struct {
		dir, kind, data string
		flags           uintptr
	}{
		{"/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "devtmpfs", "mode=755", unix.MS_NOSUID | unix.MS_NOEXEC},
		{cgroupDir, "cgroup2", "nsdelegate,memory_recursiveprot", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	} {
		if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.data); err != nil {
			return Config{}, wrap("mount "+m.dir, err)
		}
	}
	if err := containersCgroup(); err != nil {
		return Config{}, wrap("enable cgroup controllers", err)
	}
	if err := loopbackUp(); err != nil {
		return Config{}, wrap("bring lo up", err)
	}
	if err := writeFile("/proc/self/oom_score_adj", "-1000"); err != nil {
		return Config{}, err
	}
	phases.Mounts = BootTime()
	return Config{
		Dial:    dial,
		Export:  sync.OnceValues(mountExport),
		Scratch: scratchDir,
		Cgroup:  containersDir,
		Phases:  phases,
		Reset:   Reset,
	}, nil
}

// newRoot leaves the initramfs for a tmpfs: the kernel's first root cannot be pivoted from, and a container that were
// only chrooted would have it below its own.
func newRoot() error {
	const dir = "/sys" // any directory that the initramfs has
	if err := unix.Mount("root", dir, "tmpfs", 0, "mode=755,size=1m"); err != nil {
		return err
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/run/govmm", exportDir, scratchDir} {
		if err := unix.Mkdir(dir+d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

func containersCgroup() error {
	if err := enableControllers(cgroupDir); err != nil {
		return err
	}
	if err := unix.Mkdir(containersDir, 0o755); err != nil {
		return os.NewSyscallError("mkdir", err)
	}
	return enableControllers(containersDir)
}

func enableControllers(dir string) error {
	b, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	names := strings.Fields(string(b))
	if len(names) == 0 {
		return nil
	}
	return writeFile(dir+"/cgroup.subtree_control", "+"+strings.Join(names, " +"))
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// dial calls the host. The kernel gives up after two seconds (AF_VSOCK's connect timeout); a monitor that is given little CPU
// time may take longer to answer.
func dial() (Stream, error) {
	const tries = 15
	for i := 1; ; i++ {
		c, err := vsock.Dial(agent.HostCID, agent.Port, nil)
		switch {
		case err == nil:
			return c, nil
		case i == tries || !errors.Is(err, unix.ETIMEDOUT):
			return nil, err
		}
	}
}

func mountExport() (string, error) {
	err := unix.Mount(agent.Tag, exportDir, "virtiofs", 0, "")
	if errors.Is(err, unix.EINVAL) {
		err = errors.New("no virtio-fs device with the tag " + agent.Tag)
	}
	if err == nil {
		err = readAhead(exportDir)
	}
	return exportDir, err
}

// readAheadKiB is how much the kernel reads of a file ahead of a program, by one request, and around what a program runs into of a mapping. A
// request costs as much as copying some 200 KiB (docs/benchmarks.md); with the kernel's own 128 KiB half of the time went there.
const readAheadKiB = "512"

// readAhead sets that for a file system and all that are mounted in it by the same server.
func readAhead(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	device := strconv.Itoa(int(unix.Major(st.Dev))) + ":" + strconv.Itoa(int(unix.Minor(st.Dev)))
	return writeFile("/sys/class/bdi/"+device+"/read_ahead_kb", readAheadKiB)
}

// Reset ends the machine.
func Reset() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
