// Package guestkernel finds the guest kernel, the initramfs and the program of
// user-mode networks that a govmm binary carries behind its own ELF image, and
// writes them there.
//
// The layout of such a binary is
//
//	[ELF image] [zeros to 2 MiB] [vmlinux] [zeros to 4 KiB] [initramfs]
//	[zeros to 4 KiB] [govmm-net] [trailer]
//
// The program loader ignores everything behind the last segment, so the file
// stays one static program that can be copied anywhere. Finding the parts
// costs one pread of the trailer; nothing is hashed or copied at start-up.
//
// The kernel itself is configured and built by the packages below this one;
// none of them is compiled into a program that imports this package.
package guestkernel

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrNone says that the file carries no guest kernel.
var ErrNone = errors.New(`this binary was built without a guest kernel: build it with "make build", or pass --kernel`)

// ErrCorrupt is wrapped by every error about a damaged trailer.
var ErrCorrupt = errors.New("corrupt guest kernel trailer")

// Assets are what is attached to a file. The readers read
// from the open file; their Outer method tells file and offset to a caller
// that maps instead of reading.
type Assets struct {
	// Kernel is an uncompressed ELF vmlinux; it starts at a multiple of
	// 2 MiB in the file.
	Kernel *io.SectionReader
	// Initrd is an uncompressed newc archive; it starts at a multiple of
	// 4 KiB in the file.
	Initrd *io.SectionReader
	// Net is the program govmm-net, which is a process of its own where a
	// guest has a user-mode network, and costs nothing where none has.
	Net *io.SectionReader

	file *os.File
}

// Open opens the assets of the running program. Call it before the program
// leaves the mount namespace in which /proc is mounted.
func Open() (*Assets, error) {
	return OpenFile("/proc/self/exe")
}

// OpenFile opens the assets attached to the file at path. A file without any
// gives ErrNone, a damaged one an error that wraps ErrCorrupt.
func OpenFile(path string) (*Assets, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t, err := readTrailer(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Assets{
		Kernel: io.NewSectionReader(f, int64(t.kernelOff), int64(t.kernelSize)),
		Initrd: io.NewSectionReader(f, int64(t.initrdOff), int64(t.initrdSize)),
		Net:    io.NewSectionReader(f, int64(t.netOff), int64(t.netSize)),
		file:   f,
	}, nil
}

// File is the open file that holds all parts; it belongs to a.
func (a *Assets) File() *os.File { return a.file }

// Close closes the file under the readers.
func (a *Assets) Close() error { return a.file.Close() }

// Verify reads everything that is attached to the file at path and compares
// it with the checksums in the trailer. Start-up does not do this.
func Verify(path string) error {
	a, err := OpenFile(path)
	if err != nil {
		return err
	}
	defer a.Close()
	t, err := readTrailer(a.file)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		r    io.Reader
		want uint64
	}{{"kernel", a.Kernel, t.kernelSum}, {"initramfs", a.Initrd, t.initrdSum}, {"govmm-net", a.Net, t.netSum}} {
		h := newSum()
		if _, err := io.Copy(h, part.r); err != nil {
			return fmt.Errorf("read the attached %s: %w", part.name, err)
		}
		if h.Sum64() != part.want {
			return fmt.Errorf("%w: the checksum of the %s differs", ErrCorrupt, part.name)
		}
	}
	return nil
}
