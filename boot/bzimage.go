package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govmm/govmm/guestmem"
)

// Offsets of the setup header, in the file and in the zero page alike (Linux, Documentation/arch/x86/boot.rst).
const (
	hdrSetupSects    = 0x1f1
	hdrSysSize       = 0x1f4
	hdrBootFlag      = 0x1fe
	hdrJump          = 0x200 // its second byte is the distance from 0x202 to the header's end
	hdrMagic         = 0x202
	hdrVersion       = 0x206
	hdrTypeOfLoader  = 0x210
	hdrLoadFlags     = 0x211
	hdrCode32Start   = 0x214
	hdrRamdiskImage  = 0x218
	hdrRamdiskSize   = 0x21c
	hdrInitrdAddrMax = 0x22c
	hdrCmdLinePtr    = 0x228
	hdrAlignment     = 0x230
	hdrRelocatable   = 0x234
	hdrXLoadFlags    = 0x236
	hdrCmdlineSize   = 0x238
	hdrSetupData     = 0x250
	hdrPrefAddress   = 0x258
	hdrInitSize      = 0x260
	hdrEnd           = 0x290 // where the zero page needs the room for other things

	bootFlag     = 0xaa55
	setupMagic   = "HdrS"
	minProtocol  = 0x020c // the first with xloadflags
	xlfKernel64  = 1 << 0
	loadedHigh   = 1 << 0 // load_flags: protected-mode code is at 1 MiB or above
	canUseHeap   = 1 << 7 // load_flags
	loaderOther  = 0xff   // type_of_loader without an assigned number
	sectorSize   = 512
	entry64      = 0x200 // of the protected-mode code
	paragraph    = 16    // the unit of syssize
	maxInitSize  = uint64(HoleStart)
	maxAlignment = 1 << 30
)

// bzImage holds what decides where the kernel may be put.
type bzImage struct {
	preferred   uint64
	alignment   uint64
	initSize    uint64
	relocatable bool
}

func isBzImage(head []byte) bool {
	return len(head) >= hdrEnd && binary.LittleEndian.Uint16(head[hdrBootFlag:]) == bootFlag &&
		string(head[hdrMagic:hdrMagic+4]) == setupMagic
}

func parseBzImage(head []byte, size int64, want Protocol) (*image, error) {
	le := binary.LittleEndian
	version := le.Uint16(head[hdrVersion:])
	switch {
	case want == PVH:
		return nil, errors.New("a bzImage has no PVH entry: take the vmlinux that it was made of")
	case version < minProtocol:
		return nil, fmt.Errorf("boot protocol %d.%02d: 2.12 or later is needed (Linux 3.8)", version>>8, version&0xff)
	case le.Uint16(head[hdrXLoadFlags:])&xlfKernel64 == 0:
		return nil, errors.New("the bzImage has no 64-bit entry: a kernel for x86-64 is needed")
	case head[hdrLoadFlags]&loadedHigh == 0:
		return nil, errors.New("a zImage, loaded below 1 MiB: a bzImage is needed")
	}
	code, err := bzCode(head, size)
	if err != nil {
		return nil, err
	}
	b := &bzImage{
		preferred:   le.Uint64(head[hdrPrefAddress:]),
		alignment:   uint64(le.Uint32(head[hdrAlignment:])),
		initSize:    max(uint64(le.Uint32(head[hdrInitSize:])), code.fileSize),
		relocatable: head[hdrRelocatable] != 0,
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	im := &image{
		protocol: Linux64, segments: []segment{code}, bz: b,
		header:     append([]byte(nil), head[hdrSetupSects:bzHeaderEnd(head)]...),
		cmdlineMax: int(min(int64(le.Uint32(head[hdrCmdlineSize:])), maxCmdline)),
		initrdMax:  guestmem.Addr(le.Uint32(head[hdrInitrdAddrMax:])),
	}
	return im, nil
}

// bzHeaderEnd is where the setup header ends; what an image claims beyond its place in the zero page is cut off.
func bzHeaderEnd(head []byte) int { return min(hdrMagic+int(head[hdrJump+1]), hdrEnd) }

// bzCode finds the protected-mode code: everything behind the real-mode sectors.
func bzCode(head []byte, size int64) (segment, error) {
	sects := int64(head[hdrSetupSects])
	if sects == 0 {
		sects = 4 // for historical reasons
	}
	off := (sects + 1) * sectorSize
	length := int64(binary.LittleEndian.Uint32(head[hdrSysSize:])) * paragraph
	// The last paragraph may be cut short; what follows (a signature) is not code.
	if length <= entry64 || off+length-paragraph >= size {
		return segment{}, fmt.Errorf("%d bytes of code at offset %d are beyond the end of the file, at %d: is it truncated?",
			length, off, size)
	}
	n := uint64(min(length, size-off))
	return segment{offset: off, fileSize: n, memSize: n}, nil
}

func (b *bzImage) check() error {
	switch {
	case b.alignment == 0 || b.alignment&(b.alignment-1) != 0 || b.alignment > maxAlignment:
		return fmt.Errorf("kernel alignment %#x is not a power of two up to 1 GiB", b.alignment)
	case b.preferred > uint64(HoleStart) || b.initSize > maxInitSize:
		return fmt.Errorf("it wants %#x bytes at %#x, but RAM ends at %#x in every VM", b.initSize, b.preferred, uint64(HoleStart))
	case !b.relocatable && b.preferred < uint64(highRAM):
		return fmt.Errorf("it wants to be at %#x, below 1 MiB", b.preferred)
	}
	return nil
}

// place puts the image at its preferred address. The kernel never decompresses itself below that, so a lower place
// would not need less memory.
func (b *bzImage) place(im *image, lowEnd guestmem.Addr) error {
	at := guestmem.Addr(b.preferred)
	if b.relocatable && at < highRAM {
		at = alignUp(highRAM, b.alignment)
	}
	im.end = at + guestmem.Addr(b.initSize)
	if im.end > lowEnd {
		return tooSmall(im.end, lowEnd)
	}
	im.segments[0].addr = at
	im.entry = at + entry64
	return nil
}
