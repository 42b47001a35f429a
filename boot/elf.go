package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/govmm/govmm/guestmem"
)

// The parts of ELF64 that a kernel image needs (System V ABI, chapters 4 and 5). The standard library's reader is not
// used: it reads every section and symbol header first, which costs more than all of Load.
const (
	elfMagic = "\x7fELF"

	elfHeaderSize = 64
	elfProgSize   = 56
	elfClass64    = 2
	elfLSB        = 1
	elfExec       = 2
	elfDyn        = 3
	elfX8664      = 62
	elfPTLoad     = 1
	elfPTNote     = 4

	maxProgs    = 64
	maxNoteSize = 64 << 10
	noteHeader  = 12

	// xenPhys32Entry is XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry point.
	xenPhys32Entry = 18
)

type elfProg struct {
	kind             uint32
	offset           uint64
	paddr            uint64
	fileSize, memory uint64
	align            uint64
}

func parseELF(r io.ReaderAt, head []byte, size int64, want Protocol) (*image, error) {
	progs, entry, err := elfProgs(r, head, size)
	if err != nil {
		return nil, err
	}
	im := &image{cmdlineMax: defaultCmdlineMax, initrdMax: defaultInitrdMax}
	for i, p := range progs {
		if p.kind != elfPTLoad || p.memory == 0 {
			continue
		}
		s, err := loadSegment(p, size)
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
		if err := im.addSegment(s); err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
	}
	if len(im.segments) == 0 {
		return nil, errors.New("the ELF file has no segment to load: an object file or a module?")
	}
	if want != PVH && im.holds(guestmem.Addr(entry)) {
		im.protocol, im.entry = Linux64, guestmem.Addr(entry)
		return im, nil
	}
	if want == Linux64 {
		return nil, fmt.Errorf("the ELF entry %#x lies in no segment: it has no 64-bit entry, try PVH", entry)
	}
	return im, im.setPVH(r, progs, size)
}

func elfProgs(r io.ReaderAt, head []byte, size int64) ([]elfProg, uint64, error) {
	le := binary.LittleEndian
	switch {
	case len(head) < elfHeaderSize:
		return nil, 0, fmt.Errorf("the ELF file is truncated: it has %d bytes", len(head))
	case head[4] != elfClass64 || head[5] != elfLSB || le.Uint16(head[18:]) != elfX8664:
		return nil, 0, fmt.Errorf("ELF file for another machine (class %d, machine %d): a kernel for x86-64 is needed",
			head[4], le.Uint16(head[18:]))
	case le.Uint16(head[16:]) != elfExec && le.Uint16(head[16:]) != elfDyn:
		return nil, 0, fmt.Errorf("ELF file of type %d is not executable: an object file or a core dump?", le.Uint16(head[16:]))
	case le.Uint16(head[54:]) != elfProgSize:
		return nil, 0, fmt.Errorf("ELF program headers of %d bytes: %d are expected", le.Uint16(head[54:]), elfProgSize)
	}
	entry, off, n := le.Uint64(head[24:]), le.Uint64(head[32:]), uint64(le.Uint16(head[56:]))
	if n == 0 || n > maxProgs {
		return nil, 0, fmt.Errorf("%d ELF program headers: between 1 and %d are accepted", n, maxProgs)
	}
	table, err := readRange(r, head, off, n*elfProgSize, size)
	if err != nil {
		return nil, 0, fmt.Errorf("ELF program headers: %w", err)
	}
	progs := make([]elfProg, n)
	for i := range progs {
		b := table[i*elfProgSize:]
		progs[i] = elfProg{
			kind: le.Uint32(b), offset: le.Uint64(b[8:]), paddr: le.Uint64(b[24:]),
			fileSize: le.Uint64(b[32:]), memory: le.Uint64(b[40:]), align: le.Uint64(b[48:]),
		}
	}
	return progs, entry, nil
}

// readRange returns n bytes of the file at off; n is bounded by the caller. What head holds is not read again.
func readRange(r io.ReaderAt, head []byte, off, n uint64, size int64) ([]byte, error) {
	if off > uint64(size) || n > uint64(size)-off {
		return nil, fmt.Errorf("%d bytes at offset %d are beyond the end of the file, at %d: is it truncated?", n, off, size)
	}
	if off+n <= uint64(len(head)) {
		return head[off : off+n], nil
	}
	b := make([]byte, n)
	if got, err := r.ReadAt(b, int64(off)); got < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

func loadSegment(p elfProg, size int64) (segment, error) {
	end := p.paddr + p.memory
	switch {
	case p.fileSize > p.memory:
		return segment{}, fmt.Errorf("%d bytes in the file but %d in memory", p.fileSize, p.memory)
	case p.offset > uint64(size) || p.fileSize > uint64(size)-p.offset:
		return segment{}, fmt.Errorf("%d bytes at offset %d are beyond the end of the file, at %d: is it truncated?",
			p.fileSize, p.offset, size)
	case end < p.paddr || p.paddr < uint64(highRAM) || end > uint64(HoleStart):
		return segment{}, fmt.Errorf("physical addresses %#x+%#x are not between %#x and %#x: is it a kernel?",
			p.paddr, p.memory, uint64(highRAM), uint64(HoleStart))
	}
	return segment{int64(p.offset), guestmem.Addr(p.paddr), p.fileSize, p.memory}, nil
}

// addSegment appends s. Overlaps are refused: which of the two the guest would see is nobody's intention.
func (im *image) addSegment(s segment) error {
	for i, o := range im.segments {
		if s.addr < o.end() && o.addr < s.end() {
			return fmt.Errorf("%#x+%#x overlaps loaded segment %d", uint64(s.addr), s.memSize, i)
		}
	}
	im.segments = append(im.segments, s)
	im.end = max(im.end, s.end())
	return nil
}

func (im *image) holds(a guestmem.Addr) bool {
	for _, s := range im.segments {
		if a >= s.addr && a-s.addr < guestmem.Addr(s.fileSize) {
			return true
		}
	}
	return false
}

// setPVH takes the entry point from the Xen note.
func (im *image) setPVH(r io.ReaderAt, progs []elfProg, size int64) error {
	for _, p := range progs {
		if p.kind != elfPTNote {
			continue
		}
		if p.fileSize > maxNoteSize {
			return fmt.Errorf("ELF notes of %d bytes: at most %d are accepted", p.fileSize, maxNoteSize)
		}
		notes, err := readRange(r, nil, p.offset, p.fileSize, size)
		if err != nil {
			return fmt.Errorf("ELF notes: %w", err)
		}
		if entry, ok := pvhNote(notes, p.align); ok {
			if !im.holds(entry) {
				return fmt.Errorf("the PVH entry %#x lies in no segment", uint64(entry))
			}
			im.protocol, im.entry = PVH, entry
			return nil
		}
	}
	return errors.New("no PVH entry: it was built without CONFIG_PVH")
}

// pvhNote looks for the note "Xen" of type PHYS32_ENTRY. Names and contents are padded to 4 bytes, or to 8 where the
// program header says so.
func pvhNote(b []byte, align uint64) (guestmem.Addr, bool) {
	le := binary.LittleEndian
	if align != 8 {
		align = 4
	}
	// Offsets are padded, counted from the note's start; the arithmetic cannot overflow, as all sizes are 32 bits.
	pad := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	for len(b) >= noteHeader {
		nameSize, descSize, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		desc := pad(noteHeader + nameSize)
		end := desc + descSize
		if end > uint64(len(b)) {
			break
		}
		if string(b[noteHeader:noteHeader+nameSize]) == "Xen\x00" && kind == xenPhys32Entry {
			switch descSize {
			case 4:
				return guestmem.Addr(le.Uint32(b[desc:])), true
			case 8:
				return guestmem.Addr(le.Uint64(b[desc:])), true
			}
		}
		b = b[min(pad(end), uint64(len(b))):]
	}
	return 0, false
}
