package guestkernel

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"math"
	"os"
)

const (
	trailerMagic   = "govmm-gk"
	trailerVersion = 2
	trailerSize    = 104

	// kernelAlign lets a monitor map the kernel with huge pages, and keeps
	// file offset and guest-physical address equal modulo 2 MiB.
	kernelAlign = 2 << 20
	initrdAlign = 4 << 10
	netAlign    = 4 << 10
)

// A trailer is the last trailerSize bytes of a file with assets. All numbers
// are little endian, in the order of the fields, behind magic, version (u32)
// and trailer size (u32); the FNV-1a sum of what precedes ends it.
type trailer struct {
	exeSize    uint64 // bytes of the program itself, before any padding
	kernelOff  uint64
	kernelSize uint64
	initrdOff  uint64
	initrdSize uint64
	kernelSum  uint64 // CRC-64/ECMA, for Verify
	initrdSum  uint64
	netOff     uint64
	netSize    uint64
	netSum     uint64
}

// fields lists the numbers in file order.
func (t *trailer) fields() [10]*uint64 {
	return [...]*uint64{
		&t.exeSize, &t.kernelOff, &t.kernelSize, &t.initrdOff, &t.initrdSize, &t.kernelSum, &t.initrdSum, &t.netOff, &t.netSize, &t.netSum,
	}
}

func (t *trailer) encode() []byte {
	b := make([]byte, 0, trailerSize)
	b = append(b, trailerMagic...)
	b = binary.LittleEndian.AppendUint32(b, trailerVersion)
	b = binary.LittleEndian.AppendUint32(b, trailerSize)
	for _, f := range t.fields() {
		b = binary.LittleEndian.AppendUint64(b, *f)
	}
	return binary.LittleEndian.AppendUint64(b, fnv1a(b))
}

// decodeTrailer parses the last trailerSize bytes of a file of fileSize bytes
// and checks that every part lies inside the file, in order and aligned.
func decodeTrailer(b []byte, fileSize int64) (trailer, error) {
	var t trailer
	if len(b) != trailerSize || string(b[:len(trailerMagic)]) != trailerMagic {
		return t, ErrNone
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != trailerVersion {
		return t, fmt.Errorf("%w: version %d, want %d", ErrCorrupt, v, trailerVersion)
	}
	if n := binary.LittleEndian.Uint32(b[12:]); n != trailerSize {
		return t, fmt.Errorf("%w: size %d, want %d", ErrCorrupt, n, trailerSize)
	}
	if binary.LittleEndian.Uint64(b[trailerSize-8:]) != fnv1a(b[:trailerSize-8]) {
		return t, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	for i, f := range t.fields() {
		*f = binary.LittleEndian.Uint64(b[16+8*i:])
	}
	return t, t.check(fileSize)
}

// check refuses a trailer that does not describe a file of fileSize bytes.
func (t *trailer) check(fileSize int64) error {
	for _, f := range []uint64{t.exeSize, t.kernelOff, t.kernelSize, t.initrdOff, t.initrdSize, t.netOff, t.netSize} {
		// Below this, no sum of two can overflow.
		if f == 0 || f > math.MaxInt64/2 {
			return fmt.Errorf("%w: impossible offset or size %#x", ErrCorrupt, f)
		}
	}
	switch {
	case t.kernelOff != alignUp(t.exeSize, kernelAlign),
		t.initrdOff != alignUp(t.kernelOff+t.kernelSize, initrdAlign),
		t.netOff != alignUp(t.initrdOff+t.initrdSize, netAlign):
		return fmt.Errorf("%w: parts out of place", ErrCorrupt)
	case t.netOff+t.netSize+trailerSize != uint64(fileSize):
		return fmt.Errorf("%w: file has %d bytes, want %d", ErrCorrupt, fileSize, t.netOff+t.netSize+trailerSize)
	}
	return nil
}

// readTrailer reads and checks the trailer of f: one fstat, one pread.
func readTrailer(f *os.File) (trailer, error) {
	fi, err := f.Stat()
	if err != nil {
		return trailer{}, err
	}
	if fi.Size() < trailerSize {
		return trailer{}, ErrNone
	}
	var b [trailerSize]byte
	if _, err := f.ReadAt(b[:], fi.Size()-trailerSize); err != nil && err != io.EOF {
		return trailer{}, err
	}
	return decodeTrailer(b[:], fi.Size())
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

// fnv1a is the 64-bit FNV-1a hash. It guards against damage, not against
// malice: whoever can change the binary can change the program in it. Unlike
// hash/crc32 it has no tables to build at start-up.
func fnv1a(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// newSum is the checksum of the parts; its tables are built on first use.
func newSum() hash.Hash64 { return crc64.New(crc64.MakeTable(crc64.ECMA)) }
