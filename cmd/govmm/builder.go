package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestkernel"
	"github.com/govmm/govmm/virtio/blk"
	"github.com/govmm/govmm/virtio/blk/rawfile"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
)

// builder turns flags into a vmm.Config and remembers what to release.
type builder struct {
	releases []func()
}

func (b *builder) cleanup() {
	for i := len(b.releases) - 1; i >= 0; i-- {
		b.releases[i]()
	}
}

func (b *builder) onCleanup(f func()) { b.releases = append(b.releases, f) }

func (b *builder) images(cfg *vmm.Config, f *bootFlags) (err error) {
	if f.initrd != "" {
		if cfg.Initrd, err = vmm.OpenImage(f.initrd); err != nil {
			return fmt.Errorf("--initrd: %w", err)
		}
	}
	if f.kernel != "" {
		if cfg.Kernel, err = vmm.OpenImage(f.kernel); err != nil {
			return fmt.Errorf("--kernel: %w", err)
		}
		return nil
	}
	assets, err := guestkernel.Open()
	if err != nil {
		return err
	}
	b.onCleanup(func() { assets.Close() })
	cfg.Kernel = &vmm.Image{ReaderAt: assets.Kernel, Size: assets.Kernel.Size()}
	return nil
}

// firmware resolves "auto": distributions' kernels come as bzImages and want ACPI, our own ELF ones an MP table.
func (b *builder) firmware(name string, kernel *vmm.Image) (boot.Firmware, error) {
	switch name {
	case "mptable":
		return boot.MPTable, nil
	case "acpi":
		return boot.ACPI, nil
	case "auto":
		magic := make([]byte, 4)
		if _, err := kernel.ReadAt(magic, 0); err == nil && string(magic) == "\x7fELF" {
			return boot.MPTable, nil
		}
		return boot.ACPI, nil
	}
	return 0, fmt.Errorf("%q: use mptable, acpi or auto", name)
}

func parseProtocol(name string) (boot.Protocol, error) {
	switch name {
	case "auto":
		return boot.Auto, nil
	case "linux64":
		return boot.Linux64, nil
	case "pvh":
		return boot.PVH, nil
	}
	return 0, fmt.Errorf("%q: use linux64, pvh or auto", name)
}

func (b *builder) devices(cfg *vmm.Config, f *bootFlags) error {
	cfg.Devices = append(cfg.Devices, rng.New(rand.Reader))
	for i, arg := range f.disks {
		if err := b.disk(cfg, i, arg); err != nil {
			return fmt.Errorf("--disk %s: %w", arg, err)
		}
	}
	for _, arg := range f.nets {
		if err := b.network(cfg, arg); err != nil {
			return fmt.Errorf("--net %s: %w", arg, err)
		}
	}
	for _, arg := range f.shares {
		if err := b.share(cfg, arg); err != nil {
			return fmt.Errorf("--fs %s: %w", arg, err)
		}
	}
	if f.vsock != "" {
		if err := b.vsock(cfg, f.vsock); err != nil {
			return fmt.Errorf("--vsock: %w", err)
		}
	}
	return nil
}

// cutReadOnly takes the option ",ro" off an argument.
func cutReadOnly(arg string) (string, bool) { return strings.CutSuffix(arg, ",ro") }

// splitDisk takes the options off a disk's argument, from its end: a file's name may have commas.
func splitDisk(arg string) (path string, readOnly bool, limit ratelimit.Config, err error) {
	for {
		i := strings.LastIndexByte(arg, ',')
		option := arg[i+1:]
		taken, err := limit.Set(option)
		switch {
		case err != nil:
			return "", false, limit, err
		case i >= 0 && option == "ro":
			readOnly = true
		case i < 0 || !taken:
			return arg, readOnly, limit, nil
		}
		arg = arg[:i]
	}
}

// maxDiskQueues bounds a disk's queues, of which more than a few bring nothing.
const maxDiskQueues = 16

func (b *builder) disk(cfg *vmm.Config, i int, arg string) error {
	path, readOnly, limit, err := splitDisk(arg)
	if err != nil {
		return err
	}
	storage, err := rawfile.Open(path, readOnly)
	if err != nil {
		return err
	}
	b.onCleanup(func() { storage.Close() })
	d, err := blk.New(blk.Config{
		Storage: storage, ReadOnly: readOnly, Serial: fmt.Sprintf("govmm-disk%d", i),
		BlockSize: storage.BlockSize(), Queues: min(cfg.CPUs, maxDiskQueues),
		Limit: ratelimit.New(limit), Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	cfg.Devices = append(cfg.Devices, d)
	return nil
}

// parseSize reads a number of bytes with a suffix K, M, G or T (powers of 1024).
func parseSize(s string) (uint64, error) {
	digits, shift := s, 0
	if n := len(s) - 1; n >= 0 {
		if i := strings.IndexByte("KMGT", s[n]&^0x20); i >= 0 {
			digits, shift = s[:n], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || n > 1<<63>>shift {
		return 0, fmt.Errorf("%q is not a size: write a number and K, M or G, such as 512M", s)
	}
	return n << shift, nil
}

func splitShare(arg string) (tag, dir string, readOnly bool, err error) {
	arg, readOnly = cutReadOnly(arg)
	tag, dir, ok := strings.Cut(arg, "=")
	if !ok || tag == "" || dir == "" {
		return "", "", false, errors.New("write TAG=DIR or TAG=DIR,ro")
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", "", false, err
	}
	if !st.IsDir() {
		return "", "", false, fmt.Errorf("%s is not a directory", dir)
	}
	return tag, dir, readOnly, nil
}
