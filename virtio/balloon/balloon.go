// Package balloon is the traditional memory balloon (virtio 1.2 §5.5): the guest gives pages back, those that it reports
// as free (free page reporting), and those that it keeps out of use when the host asks for them (inflation).
package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// Feature bits (virtio 1.2 §5.5.3). Pages may be used again before the host hears of it, so MUST_TELL_HOST is not offered;
// they read as zeroes then, and a driver that poisons free pages does not report them without PAGE_POISON.
const (
	FeatureStats        uint64 = 1 << 1
	FeatureDeflateOnOOM uint64 = 1 << 2
	FeatureReporting    uint64 = 1 << 5
)

// The queues. By the specification reporting_vq is number 4 (virtio 1.2 §5.5.2); Linux leaves no gap for a queue whose
// feature is missing, as free page hinting's always is here, and has it at 3, or at 2 without statistics. A driver sets up
// one of them.
const (
	inflateQueue = 0
	deflateQueue = 1
	statsQueue   = 2
)

// Linux reports 32 ranges at a time, and gives up on a shorter queue.
var queueSizes = [...]uint16{16, 16, 8, 32, 32}

const (
	pageSize = 4096
	// maxPFNs bounds the page frame numbers that are read of one request. Linux sends 256.
	maxPFNs = 4096
	// maxStats bounds the statistics that are read of one buffer. Linux sends ten or so.
	maxStats = 64

	configSize   = 8
	configActual = 4
	statSize     = 10

	stateVersion = 1
	stateSize    = 9
)

// Backend takes what the guest does not need. It checks the range: guest pages that are no RAM reach it too.
type Backend interface {
	// Release gives a range of guest memory back to the host; it reads as zeroes afterwards.
	Release(a guestmem.Addr, n uint64) error
}

// Config is what a balloon needs.
type Config struct {
	Backend Backend
	// Logger gets what the driver does wrong and what the backend refuses, rate-limited. nil discards.
	Logger *slog.Logger
}

// Device is a balloon.
type Device struct {
	backend   Backend
	log       *slog.Logger
	limiter   virtio.Limiter
	transport virtio.Transport

	mu       sync.Mutex
	target   uint32 // num_pages
	actual   uint32
	active   bool
	features uint64
	rounds   int           // of the statistics queue until the values are fresh
	fresh    chan struct{} // closed when they are
	stats    Stats
}

// New returns an empty balloon.
func New(cfg Config) *Device {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{backend: cfg.Backend, log: cfg.Logger}
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDBalloon }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return FeatureStats | FeatureDeflateOnOOM | FeatureReporting }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return queueSizes[:] }

// Config implements virtio.Device: num_pages and actual (virtio 1.2 §5.5.4).
func (d *Device) Config() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := binary.LittleEndian.AppendUint32(nil, d.target)
	return binary.LittleEndian.AppendUint32(p, d.actual)
}

// WriteConfig implements virtio.ConfigWriter: the driver says how many pages the balloon has.
func (d *Device) WriteConfig(off uint32, p []byte) {
	if off != configActual || len(p) != configSize-configActual {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actual = binary.LittleEndian.Uint32(p)
}

// Attach implements virtio.Attacher.
func (d *Device) Attach(t virtio.Transport) { d.transport = t }

// Activate implements virtio.Activator.
func (d *Device) Activate(features uint64, _ []*virtio.Queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active, d.features = true, features
}

// Reset implements virtio.Device: a balloon without a driver is empty. What the host asks for stays.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active, d.features, d.actual = false, 0, 0
	d.endStats()
}

// SetTarget asks the guest to keep so many bytes out of use. A guest that runs out of memory takes them back by itself.
func (d *Device) SetTarget(bytes uint64) {
	d.mu.Lock()
	pages := uint32(min(bytes/pageSize, 1<<32-1))
	changed := pages != d.target
	d.target = pages
	d.mu.Unlock()
	if changed && d.transport != nil {
		d.transport.ConfigChanged()
	}
}

// Size returns how many bytes the guest says that the balloon has.
func (d *Device) Size() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return uint64(d.actual) * pageSize
}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, i int, q *virtio.Queue) error {
	if i == statsQueue && q.Features()&FeatureStats != 0 {
		return d.serveStats(ctx, q)
	}
	for ctx.Err() == nil {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		switch {
		case i == inflateQueue:
			d.inflate(c)
		case i > deflateQueue && q.Features()&FeatureReporting != 0:
			d.report(c)
		}
		// Of a page that is taken back nothing needs to be done: the host backs it again when it is touched.
		if err := q.Push(c, 0); err != nil {
			return err
		}
		q.Notify() // the driver waits for each
	}
	return ctx.Err()
}

// inflate releases the pages of a request, neighbours together: the numbers come one by one, in any order.
func (d *Device) inflate(c *virtio.Chain) {
	p := make([]byte, min(c.ReadableLen(), 4*maxPFNs))
	p = p[:c.ReadHeader(p)]
	var start, n uint64 // pages
	for ; len(p) >= 4; p = p[4:] {
		pfn := uint64(binary.LittleEndian.Uint32(p))
		switch {
		case n > 0 && pfn == start+n:
			n++
		case n > 0 && pfn+1 == start: // Linux takes pages from the top
			start, n = pfn, n+1
		default:
			d.release(guestmem.Addr(start*pageSize), n*pageSize)
			start, n = pfn, 1
		}
	}
	d.release(guestmem.Addr(start*pageSize), n*pageSize)
}

// report releases the buffers of a chain, which are the free pages themselves (virtio 1.2 §5.5.6.7).
func (d *Device) report(c *virtio.Chain) {
	for _, b := range c.Writable() {
		if a, ok := c.AddrOf(b); ok {
			d.release(a, uint64(len(b)))
		}
	}
}

func (d *Device) release(a guestmem.Addr, n uint64) {
	if n == 0 {
		return
	}
	if err := d.backend.Release(a, n); err != nil {
		if ok, dropped := d.limiter.Allow(); ok {
			d.log.Warn("balloon: pages were not released", "address", uint64(a), "bytes", n, "error", err, "suppressed", dropped)
		}
	}
}

// MarshalState implements virtio.StateSaver.
func (d *Device) MarshalState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := binary.LittleEndian.AppendUint32([]byte{stateVersion}, d.target)
	return binary.LittleEndian.AppendUint32(p, d.actual), nil
}

// UnmarshalState implements virtio.StateSaver.
func (d *Device) UnmarshalState(p []byte) error {
	if len(p) != stateSize || p[0] != stateVersion {
		return errors.New("balloon: not a state of this version")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target, d.actual = binary.LittleEndian.Uint32(p[1:]), binary.LittleEndian.Uint32(p[5:])
	return nil
}
