package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govmm/govmm/virtio"
)

// Request types (virtio 1.2 §5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// Values of the status byte (virtio 1.2 §5.2.6).
const (
	statusOK          = 0
	statusIOErr       = 1
	statusUnsupported = 2
)

const (
	headerSize  = 16
	segmentSize = 16
	flagUnmap   = 1 // of a segment of discard and write-zeroes
)

// errUnsupported is answered with UNSUPP, any other error with IOERR.
var errUnsupported = errors.New("unsupported request")

// errRequest is the driver's fault: an answer, but no log line.
var errRequest = errors.New("bad request")

// request carries out one request and returns the number of bytes that were written from the start of the writable
// part. The status is the last writable byte, in whichever buffer that lies (virtio 1.2 §2.7.4: the framing is the
// driver's choice). A request without one cannot be answered: that is an error for the transport.
func (d *Device) request(c *virtio.Chain, negotiated uint64) (uint32, error) {
	room := c.WritableLen()
	if room == 0 {
		return 0, fmt.Errorf("%w: block request without a status byte", virtio.ErrMalformed)
	}
	writable := c.Writable()
	last := writable[len(writable)-1]
	status := last[len(last)-1:]
	if last = last[:len(last)-1]; len(last) == 0 {
		writable = writable[:len(writable)-1]
	} else {
		writable[len(writable)-1] = last
	}
	n, err := d.execute(c, writable, room-1, negotiated)
	switch {
	case err == nil:
		status[0] = statusOK
	case errors.Is(err, errUnsupported):
		status[0] = statusUnsupported
	default:
		status[0] = statusIOErr
		if !errors.Is(err, errRequest) {
			d.complain(err)
		}
	}
	// The used length counts only what was written without a gap, so the status only when all before it was.
	if err != nil || n < room-1 {
		if room > 1 {
			return uint32(n), nil
		}
		return 1, nil
	}
	return uint32(room), nil
}

func (d *Device) complain(err error) {
	if ok, dropped := d.limiter.Allow(); ok {
		d.cfg.Logger.Error("block device: request failed", "error", err, "serial", d.cfg.Serial, "suppressed", dropped)
	}
}

// execute does what the header says and returns the number of bytes written to writable, the data part.
func (d *Device) execute(c *virtio.Chain, writable [][]byte, room, negotiated uint64) (uint64, error) {
	var h [headerSize]byte
	if c.ReadHeader(h[:]) < headerSize {
		return 0, errRequest
	}
	sector := binary.LittleEndian.Uint64(h[8:])
	data := virtio.Skip(c.Readable(), headerSize)
	length := c.ReadableLen() - headerSize
	switch kind := binary.LittleEndian.Uint32(h[:]); kind {
	case typeIn:
		off, err := d.offset(sector, room)
		if err == nil {
			err = d.read(writable, off)
		}
		if err != nil {
			return 0, err
		}
		return room, nil
	case typeOut:
		return 0, d.out(data, length, sector, negotiated)
	case typeFlush:
		return 0, d.flush(negotiated)
	case typeGetID:
		var id [idSize]byte
		copy(id[:], d.cfg.Serial)
		return uint64(virtio.CopyTo(writable, id[:])), nil
	case typeDiscard, typeWriteZeroes:
		return 0, d.ranges(kind, data, length, negotiated)
	}
	return 0, errUnsupported
}

// offset checks a range of the disk and returns where it begins, in bytes.
func (d *Device) offset(sector, length uint64) (int64, error) {
	n := length / SectorSize
	if length%SectorSize != 0 || sector > d.sectors || n > d.sectors-sector {
		return 0, errRequest
	}
	return int64(sector * SectorSize), nil // below Size, which is an int64
}

func (d *Device) out(data [][]byte, length, sector, negotiated uint64) error {
	if d.cfg.ReadOnly {
		return errRequest
	}
	off, err := d.offset(sector, length)
	if err != nil {
		return err
	}
	if err := d.write(data, off); err != nil {
		return err
	}
	return d.writeThrough(negotiated)
}

// writeThrough makes a write durable for a driver that did not negotiate FLUSH: it does not know of a cache
// (virtio 1.2 §5.2.5.2).
func (d *Device) writeThrough(negotiated uint64) error {
	if f, ok := d.cfg.Storage.(Flusher); ok && negotiated&FeatureFlush == 0 {
		return f.Flush()
	}
	return nil
}

func (d *Device) flush(negotiated uint64) error {
	f, ok := d.cfg.Storage.(Flusher)
	if !ok || negotiated&FeatureFlush == 0 {
		return errUnsupported
	}
	return f.Flush()
}

func (d *Device) read(buffers [][]byte, off int64) error {
	if d.vector != nil && len(buffers) > 1 {
		if err := d.vector.ReadVector(buffers, off); err != nil {
			return fmt.Errorf("read into %d buffers at %d: %w", len(buffers), off, err)
		}
		return nil
	}
	for _, b := range buffers {
		if n, err := d.cfg.Storage.ReadAt(b, off); n < len(b) {
			return fmt.Errorf("read of %d bytes at %d: %w", len(b), off, err)
		}
		off += int64(len(b))
	}
	return nil
}

func (d *Device) write(buffers [][]byte, off int64) error {
	if d.vector != nil && len(buffers) > 1 {
		if err := d.vector.WriteVector(buffers, off); err != nil {
			return fmt.Errorf("write of %d buffers at %d: %w", len(buffers), off, err)
		}
		return nil
	}
	for _, b := range buffers {
		if _, err := d.cfg.Storage.WriteAt(b, off); err != nil {
			return fmt.Errorf("write of %d bytes at %d: %w", len(b), off, err)
		}
		off += int64(len(b))
	}
	return nil
}

// segment is one range of a discard or write-zeroes request.
type segment struct {
	off, n int64
	unmap  bool
}

// ranges carries out discard and write-zeroes. All segments are checked before the first one is carried out.
func (d *Device) ranges(kind uint32, data [][]byte, length, negotiated uint64) error {
	feature := FeatureWriteZeroes
	if kind == typeDiscard {
		feature = FeatureDiscard
	}
	switch {
	case d.cfg.ReadOnly:
		return errRequest
	case negotiated&feature == 0:
		return errUnsupported
	case length == 0 || length%segmentSize != 0 || length > maxSegments*segmentSize:
		return errRequest
	}
	var raw [maxSegments * segmentSize]byte
	p := raw[:virtio.CopyFrom(raw[:length], data)]
	var segments [maxSegments]segment
	n := 0
	for ; len(p) >= segmentSize; p = p[segmentSize:] {
		s, err := d.parseSegment(kind, p)
		if err != nil {
			return err
		}
		segments[n] = s
		n++
	}
	for _, s := range segments[:n] {
		if err := d.clear(kind, s); err != nil {
			return fmt.Errorf("request of type %d, %d bytes at %d: %w", kind, s.n, s.off, err)
		}
	}
	return d.writeThrough(negotiated)
}

// parseSegment checks one segment (virtio 1.2 §5.2.6.2: unknown flags, and unmap in a discard, are UNSUPP).
func (d *Device) parseSegment(kind uint32, p []byte) (segment, error) {
	sector, n := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])
	flags := binary.LittleEndian.Uint32(p[12:])
	if flags&^flagUnmap != 0 || kind == typeDiscard && flags != 0 {
		return segment{}, errUnsupported
	}
	limit := uint32(maxZeroes)
	if kind == typeDiscard {
		limit = maxDiscard
	}
	if n > limit {
		return segment{}, errRequest
	}
	length := uint64(n) * SectorSize
	off, err := d.offset(sector, length)
	return segment{off, int64(length), flags&flagUnmap != 0}, err
}

func (d *Device) clear(kind uint32, s segment) error {
	if s.n == 0 {
		return nil
	}
	if kind == typeDiscard {
		if f, ok := d.cfg.Storage.(Discarder); ok {
			return f.Discard(s.off, s.n)
		}
		return errUnsupported
	}
	if f, ok := d.cfg.Storage.(ZeroWriter); ok {
		return f.WriteZeroes(s.off, s.n, s.unmap)
	}
	return errUnsupported
}
