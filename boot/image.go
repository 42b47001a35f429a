package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/govmm/govmm/guestmem"
)

// image is a parsed kernel: what to read where, and how to enter it.
type image struct {
	protocol Protocol
	entry    guestmem.Addr
	segments []segment
	end      guestmem.Addr // of the memory that the kernel uses before it reads the memory map

	cmdlineMax int           // bytes, without the terminating NUL
	initrdMax  guestmem.Addr // highest address that the initrd may occupy
	header     []byte        // bzImage: the setup header as it goes into the zero page

	bz *bzImage // nil for ELF: where a bzImage may be put is decided late
}

// segment is a range of the file and where it goes.
type segment struct {
	offset   int64
	addr     guestmem.Addr
	fileSize uint64 // bytes in the file
	memSize  uint64 // bytes in memory; what exceeds fileSize is zero
}

func (s segment) end() guestmem.Addr { return s.addr + guestmem.Addr(s.memSize) }

const (
	// headSize is read at once: the ELF header with its program headers, or a bzImage's setup header.
	headSize = 4096
	// defaultCmdlineMax is COMMAND_LINE_SIZE of x86 kernels, less the NUL.
	defaultCmdlineMax = 2047
	// defaultInitrdMax is what the boot protocol names for kernels that say nothing.
	defaultInitrdMax guestmem.Addr = 0x7fff_ffff
)

func parseImage(r io.ReaderAt, size int64, want Protocol) (*image, error) {
	head := make([]byte, min(headSize, size))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read its first %d bytes: %w", len(head), err)
	}
	switch {
	case bytes.HasPrefix(head, []byte(elfMagic)):
		return parseELF(r, head, size, want)
	case isBzImage(head):
		return parseBzImage(head, size, want)
	}
	return nil, unknownFormat(head)
}

// unknownFormat names what the file is instead, where it can be told: compressed kernels and archives are the usual
// mistakes.
func unknownFormat(head []byte) error {
	for _, f := range []struct{ magic, what string }{
		{"\x1f\x8b", "gzip data: decompress it first"},
		{"\x28\xb5\x2f\xfd", "zstd data: decompress it first"},
		{"\xfd7zXZ\x00", "xz data: decompress it first"},
		{"\x02\x21\x4c\x18", "lz4 data: decompress it first"},
		{"070701", "a cpio archive: this is an initrd, not a kernel"},
		{"MZ", "an EFI program without a Linux setup header: an x86-64 vmlinux or bzImage is needed"},
		{"#!", "a script"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return errors.New("neither ELF nor bzImage but " + f.what)
		}
	}
	return fmt.Errorf("neither ELF nor bzImage: it starts with % x", head[:min(8, len(head))])
}

// place decides where the kernel goes and returns its end, or says how much memory it needs.
func (im *image) place(lowEnd guestmem.Addr) (guestmem.Addr, error) {
	if im.bz != nil {
		if err := im.bz.place(im, lowEnd); err != nil {
			return 0, err
		}
	}
	if im.end > lowEnd {
		return 0, tooSmall(im.end, lowEnd)
	}
	return im.end, nil
}

func tooSmall(end, lowEnd guestmem.Addr) error {
	if end > HoleStart {
		return fmt.Errorf("boot: kernel: it wants the memory up to %#x, but RAM ends at %#x in every VM", uint64(end), uint64(HoleStart))
	}
	return fmt.Errorf("boot: kernel: it needs the memory up to %d MiB, the VM has %d MiB: give it at least %d MiB",
		mib(uint64(end)), lowEnd>>20, mib(uint64(end)))
}
