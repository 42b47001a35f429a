// Package mem is the virtio memory device (virtio 1.2 §5.15): memory that the guest plugs, block by block, as far as the
// host allows.
package mem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// FeatureUnpluggedInaccessible says that the driver must not touch unplugged blocks (virtio 1.2 §5.15.3).
const FeatureUnpluggedInaccessible uint64 = 1 << 1

// BlockSize is the unit of plugging, in bytes: a huge page of the host. Linux plugs 128 MiB in one request whatever it is.
const BlockSize = 2 << 20

const (
	queueSize    = 16
	configSize   = 56
	requestSize  = 24
	responseSize = 10
	typeSize     = 8 // of a request without arguments

	stateVersion = 1
	stateHeader  = 17
)

// Backend holds the memory.
type Backend interface {
	// Release gives a range of guest memory back to the host; it reads as zeroes afterwards.
	Release(a guestmem.Addr, n uint64) error
}

// Config is what a device needs.
type Config struct {
	// Region is where plugged memory lies, in whole blocks. Nobody else uses it.
	Region  guestmem.Region
	Backend Backend
	// Logger gets what the driver does wrong, rate-limited. nil discards.
	Logger *slog.Logger
}

// Device is a memory device.
type Device struct {
	region    guestmem.Region
	backend   Backend
	log       *slog.Logger
	limiter   virtio.Limiter
	transport virtio.Transport

	mu        sync.Mutex
	requested uint64 // bytes
	usable    uint64 // bytes
	plugged   bitmap // by block
	count     uint64 // of blocks that are plugged
}

// New returns a device with nothing plugged and nothing requested.
func New(cfg Config) (*Device, error) {
	r := cfg.Region
	if r.Size == 0 || r.Size%BlockSize != 0 || r.Base%BlockSize != 0 || r.End() < r.Base {
		return nil, fmt.Errorf("virtio-mem: region %#x+%#x is not made of blocks of %d MiB", uint64(r.Base), r.Size, BlockSize>>20)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{region: r, backend: cfg.Backend, log: cfg.Logger, plugged: newBitmap(r.Size / BlockSize)}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDMem }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return FeatureUnpluggedInaccessible }

// Queues implements virtio.Device: guest-request.
func (d *Device) Queues() []uint16 { return []uint16{queueSize} }

// Config implements virtio.Device (virtio 1.2 §5.15.4).
func (d *Device) Config() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := make([]byte, 0, configSize)
	for _, v := range []uint64{
		BlockSize, 0, uint64(d.region.Base), d.region.Size, d.usable, d.count * BlockSize, d.requested,
	} {
		p = binary.LittleEndian.AppendUint64(p, v)
	}
	return p
}

// Attach implements virtio.Attacher.
func (d *Device) Attach(t virtio.Transport) { d.transport = t }

// Reset implements virtio.Device. What is plugged stays so, in the hands of the next driver (virtio 1.2 §5.15.5.2).
func (d *Device) Reset() {}

// Resize asks the guest to plug or unplug memory until it has requested bytes, which may lie within the first usable
// bytes of the region. The usable part never shrinks, and the caller has made it accessible.
func (d *Device) Resize(requested, usable uint64) error {
	d.mu.Lock()
	if requested%BlockSize != 0 || usable%BlockSize != 0 || usable > d.region.Size || usable < d.usable || requested > usable {
		d.mu.Unlock()
		return fmt.Errorf("virtio-mem: %#x bytes in %#x of %#x that are usable are not whole blocks, or too many", requested,
			usable, d.region.Size)
	}
	d.requested, d.usable = requested, usable
	d.mu.Unlock()
	if d.transport != nil {
		d.transport.ConfigChanged()
	}
	return nil
}

// Plugged returns how many bytes the guest has plugged.
func (d *Device) Plugged() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count * BlockSize
}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, _ int, q *virtio.Queue) error {
	for ctx.Err() == nil {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		response, err := d.request(c)
		if err != nil {
			return errors.Join(err, q.Push(c, 0))
		}
		if err := q.Push(c, uint32(c.Write(response))); err != nil {
			return err
		}
		q.Notify() // the driver waits for each
	}
	return ctx.Err()
}

// MarshalState implements virtio.StateSaver: sizes and which blocks are plugged. Their contents are the machine's.
func (d *Device) MarshalState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := binary.LittleEndian.AppendUint64([]byte{stateVersion}, d.requested)
	p = binary.LittleEndian.AppendUint64(p, d.usable)
	return append(p, d.plugged...), nil
}

// UnmarshalState implements virtio.StateSaver.
func (d *Device) UnmarshalState(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(p) != stateHeader+len(d.plugged) || p[0] != stateVersion {
		return errors.New("virtio-mem: not a state of this version and region")
	}
	requested, usable := binary.LittleEndian.Uint64(p[1:]), binary.LittleEndian.Uint64(p[9:])
	plugged := bitmap(p[stateHeader:])
	blocks := d.region.Size / BlockSize
	if requested%BlockSize != 0 || usable%BlockSize != 0 || usable > d.region.Size || requested > usable ||
		!plugged.all(usable/BlockSize, uint64(8*len(plugged))-usable/BlockSize, false) {
		return fmt.Errorf("virtio-mem: a state with %#x bytes in %#x, of %d blocks", requested, usable, blocks)
	}
	copy(d.plugged, plugged)
	d.requested, d.usable, d.count = requested, usable, d.plugged.count()
	return nil
}
