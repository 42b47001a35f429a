// Package blk is the virtio block device (virtio 1.2 §5.2). Requests of one queue are carried out one after the other,
// in order; several queues run beside each other.
package blk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/ratelimit"
)

// Feature bits (virtio 1.2 §5.2.3).
const (
	FeatureSegMax      uint64 = 1 << 2
	FeatureReadOnly    uint64 = 1 << 5
	FeatureBlockSize   uint64 = 1 << 6
	FeatureFlush       uint64 = 1 << 9
	FeatureMultiQueue  uint64 = 1 << 12
	FeatureDiscard     uint64 = 1 << 13
	FeatureWriteZeroes uint64 = 1 << 14
)

// SectorSize is the unit of all positions and lengths of the protocol, in bytes.
const SectorSize = 512

const (
	queueSize = 256
	maxQueues = 64
	idSize    = 20 // VIRTIO_BLK_ID_BYTES
	// maxSegments bounds the ranges of one discard or write-zeroes request. maxDiscard and maxZeroes bound the sectors
	// of each: a reset and a snapshot wait for the request, and a Storage may have to write zeroes one by one.
	maxSegments = 16
	maxDiscard  = 1 << 22
	maxZeroes   = 1 << 17
	configSize  = 60
)

// Storage holds the device's bytes. Its methods are called from one goroutine per queue, with buffers that the guest may
// change meanwhile: hand them to the kernel or copy, do not look into them.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	// Size returns the number of bytes, asked for once; a part of a sector at the end is not used.
	Size() int64
}

// Flusher is a Storage that caches. Flush returns when all that was written before is durable.
type Flusher interface {
	Flush() error
}

// Discarder is a Storage that can forget a range, whose content is undefined afterwards.
type Discarder interface {
	Discard(off, n int64) error
}

// ZeroWriter is a Storage that writes zeroes faster than WriteAt; unmap allows it to free the space.
type ZeroWriter interface {
	WriteZeroes(off, n int64, unmap bool) error
}

// VectorStorage is a Storage that reads and writes several buffers at once. Both move all bytes or return an error.
type VectorStorage interface {
	ReadVector(buffers [][]byte, off int64) error
	WriteVector(buffers [][]byte, off int64) error
}

// Config is what a block device needs from its machine.
type Config struct {
	Storage  Storage
	ReadOnly bool
	// Serial is what the driver reads as the device's identity, at most 20 bytes.
	Serial string
	// BlockSize is the size in bytes that suits Storage best: a power of two from 512. 0 means 512.
	BlockSize uint32
	// Queues is the number of request queues; 0 means 1.
	Queues int
	// Limit bounds what all queues do together: requests, and the bytes that they move. nil does not.
	Limit *ratelimit.Limiter
	// Logger gets errors of Storage, rate-limited. nil discards.
	Logger *slog.Logger
}

// Device is a block device.
type Device struct {
	cfg      Config
	sectors  uint64
	features uint64
	vector   VectorStorage // nil: buffer by buffer
	limiter  virtio.Limiter
}

// New returns a block device over cfg.Storage.
func New(cfg Config) (*Device, error) {
	if cfg.BlockSize == 0 {
		cfg.BlockSize = SectorSize
	}
	if cfg.Queues == 0 {
		cfg.Queues = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Storage == nil:
		return nil, errors.New("block device: no storage")
	case len(cfg.Serial) > idSize:
		return nil, fmt.Errorf("block device: serial %q is longer than %d bytes", cfg.Serial, idSize)
	case cfg.BlockSize < SectorSize || cfg.BlockSize&(cfg.BlockSize-1) != 0:
		return nil, fmt.Errorf("block device: block size %d is not a power of two from %d", cfg.BlockSize, SectorSize)
	case cfg.Queues < 0 || cfg.Queues > maxQueues:
		return nil, fmt.Errorf("block device: %d queues, at most %d", cfg.Queues, maxQueues)
	}
	size := cfg.Storage.Size()
	if size < 0 {
		return nil, fmt.Errorf("block device: storage of %d bytes", size)
	}
	d := &Device{cfg: cfg, sectors: uint64(size) / SectorSize}
	d.vector, _ = cfg.Storage.(VectorStorage)
	d.features = d.offer()
	return d, nil
}

func (d *Device) offer() uint64 {
	f := FeatureSegMax | FeatureBlockSize
	if d.cfg.Queues > 1 {
		f |= FeatureMultiQueue
	}
	if _, ok := d.cfg.Storage.(Flusher); ok {
		f |= FeatureFlush
	}
	if d.cfg.ReadOnly {
		return f | FeatureReadOnly
	}
	if _, ok := d.cfg.Storage.(Discarder); ok {
		f |= FeatureDiscard
	}
	if _, ok := d.cfg.Storage.(ZeroWriter); ok {
		f |= FeatureWriteZeroes
	}
	return f
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDBlock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return d.features }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	q := make([]uint16, d.cfg.Queues)
	for i := range q {
		q[i] = queueSize
	}
	return q
}

// Config implements virtio.Device (virtio 1.2 §5.2.4). Fields of features that are not offered read as zero.
func (d *Device) Config() []byte {
	p := make([]byte, configSize)
	le := binary.LittleEndian
	le.PutUint64(p, d.sectors)
	le.PutUint32(p[12:], queueSize-2) // seg_max: all but the header and the status
	le.PutUint32(p[20:], d.cfg.BlockSize)
	if d.features&FeatureMultiQueue != 0 {
		le.PutUint16(p[34:], uint16(d.cfg.Queues))
	}
	if d.features&FeatureDiscard != 0 {
		le.PutUint32(p[36:], maxDiscard)
		le.PutUint32(p[40:], maxSegments)
		le.PutUint32(p[44:], d.cfg.BlockSize/SectorSize)
	}
	if d.features&FeatureWriteZeroes != 0 {
		le.PutUint32(p[48:], maxZeroes)
		le.PutUint32(p[52:], maxSegments)
		p[56] = 1 // write_zeroes_may_unmap
	}
	return p
}

// Reset implements virtio.Device. Nothing is kept between requests.
func (d *Device) Reset() {}

// Serve implements virtio.Device. The driver hears of each request when it is done: the next one may take long.
func (d *Device) Serve(ctx context.Context, _ int, q *virtio.Queue) error {
	for ctx.Err() == nil {
		if err := d.cfg.Limit.Wait(ctx, nil); err != nil {
			return err
		}
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.cfg.Limit.Charge(max(int(c.ReadableLen()+c.WritableLen())-headerSize-1, 0))
		written, err := d.request(c, q.Features())
		if perr := q.Push(c, written); perr != nil {
			return perr
		}
		if err != nil {
			return err
		}
		q.Notify()
	}
	return ctx.Err()
}

const stateSize = 9

// MarshalState implements virtio.StateSaver: what the driver knows of the device and a restored one must have too.
func (d *Device) MarshalState() ([]byte, error) {
	p := binary.LittleEndian.AppendUint64(nil, d.sectors)
	if d.cfg.ReadOnly {
		return append(p, 1), nil
	}
	return append(p, 0), nil
}

// UnmarshalState implements virtio.StateSaver.
func (d *Device) UnmarshalState(p []byte) error {
	switch {
	case len(p) != stateSize:
		return fmt.Errorf("block device: state of %d bytes, want %d", len(p), stateSize)
	case binary.LittleEndian.Uint64(p) != d.sectors:
		return fmt.Errorf("block device: the state is of a disk of %d sectors, this one has %d",
			binary.LittleEndian.Uint64(p), d.sectors)
	case (p[8] == 1) != d.cfg.ReadOnly || p[8] > 1:
		return errors.New("block device: the state is of a disk that differs in being read-only")
	}
	return nil
}
