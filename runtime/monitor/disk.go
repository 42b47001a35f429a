package monitor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/blk"
	"github.com/govmm/govmm/virtio/blk/rawfile"
	"github.com/govmm/govmm/virtio/ratelimit"
)

// errNoDisk is a block device behind which there is nothing.
var errNoDisk = errors.New("no such block device")

// openDisks makes a virtio block device of each of the host's that the container was given. One that the host does not have, or that
// is empty, is left out: its node stays, as under runc.
func (m *monitor) openDisks() ([]virtio.Device, error) {
	var out []virtio.Device
	m.disks = map[string]bool{}
	for _, d := range oci.Disks(m.cfg.Spec.Linux) {
		device, err := m.openDisk(d)
		if errors.Is(err, errNoDisk) {
			m.log.Debug("block device left out", "path", d.Path, "major", d.Major, "minor", d.Minor)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("linux.devices: %s, the host's block device %d:%d: %w", d.Path, d.Major, d.Minor, err)
		}
		m.disks[d.Serial] = true
		out = append(out, device)
	}
	return out, nil
}

// openDisk opens a block device. Engines decide who may have it: it is not locked, as runc does not.
func (m *monitor) openDisk(d oci.Disk) (virtio.Device, error) {
	f, readOnly, err := openBlockDevice(unix.Mkdev(d.Major, d.Minor), d.ReadOnly)
	if err != nil {
		return nil, err
	}
	storage, err := rawfile.New(f)
	if err == nil && storage.Size() == 0 {
		err = errNoDisk
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	limit, err := oci.Limit(m.cfg.Spec, oci.AnnotationDiskLimit)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return blk.New(blk.Config{
		Storage: storage, ReadOnly: readOnly, Serial: d.Serial, BlockSize: storage.BlockSize(), Limit: ratelimit.New(limit), Logger: m.log,
	})
}

// openBlockDevice opens a device by its number, through a node of its own: the host's name for it may be any, or none.
func openBlockDevice(number uint64, readOnly bool) (*os.File, bool, error) {
	dir, err := detachedTmpfs()
	if err != nil {
		return nil, false, err
	}
	defer unix.Close(dir)
	const name = "disk"
	if err := unix.Mknodat(dir, name, unix.S_IFBLK|0o600, int(number)); err != nil {
		return nil, false, os.NewSyscallError("mknod", err)
	}
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
	if !readOnly && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
		readOnly = true // it is write-protected: a program that opens it for writing is told so in the guest, too
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOMEDIUM):
		return nil, false, errNoDisk
	case err != nil:
		return nil, false, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), name), readOnly, nil
}

// detachedTmpfs makes a file system that is mounted nowhere.
func detachedTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	return dir, os.NewSyscallError("fsmount", err)
}

// dropMissingDisks has the guest make nodes with the numbers of the config where there is no disk.
func (m *monitor) dropMissingDisks(devices []agent.Device) {
	for i := range devices {
		if !m.disks[devices[i].Disk] {
			devices[i].Disk = ""
		}
	}
}
