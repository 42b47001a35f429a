// Package net is the virtio network device (virtio 1.2 §5.1). Frames move between guest memory and a Link, straight: the
// device copies none, but when the guest is short of receive buffers.
//
// Each queue is served by its own goroutine. That of a receive queue waits for frames inside Serve, in Link.Receive, with
// guest buffers in hand: no other goroutine and no notification stand between a frame and the guest. When Serve
// returns, the chains that it has not used are available again: between calls the device holds nothing of the guest's.
package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/ratelimit"
)

// Feature bits (virtio 1.2 §5.1.3; the USO ones are virtio 1.3's).
const (
	FeatureCSum              uint64 = 1 << 0
	FeatureGuestCSum         uint64 = 1 << 1
	FeatureCtrlGuestOffloads uint64 = 1 << 2
	FeatureMTU               uint64 = 1 << 3
	FeatureMAC               uint64 = 1 << 5
	FeatureGuestTSO4         uint64 = 1 << 7
	FeatureGuestTSO6         uint64 = 1 << 8
	FeatureGuestECN          uint64 = 1 << 9
	FeatureGuestUFO          uint64 = 1 << 10
	FeatureHostTSO4          uint64 = 1 << 11
	FeatureHostTSO6          uint64 = 1 << 12
	FeatureHostECN           uint64 = 1 << 13
	FeatureHostUFO           uint64 = 1 << 14
	FeatureMergeable         uint64 = 1 << 15
	FeatureStatus            uint64 = 1 << 16
	FeatureCtrlQueue         uint64 = 1 << 17
	FeatureCtrlRX            uint64 = 1 << 18
	FeatureGuestAnnounce     uint64 = 1 << 21
	FeatureMultiQueue        uint64 = 1 << 22
	FeatureCtrlMACAddr       uint64 = 1 << 23
	FeatureGuestUSO4         uint64 = 1 << 54
	FeatureGuestUSO6         uint64 = 1 << 55
	FeatureHostUSO           uint64 = 1 << 56
	FeatureSpeedDuplex       uint64 = 1 << 63
)

const (
	guestSegments = FeatureGuestTSO4 | FeatureGuestTSO6 | FeatureGuestUFO | FeatureGuestUSO4 | FeatureGuestUSO6
	// guestOffloads are what the driver can switch (virtio 1.2 §5.1.6.5.6.1).
	guestOffloads = FeatureGuestCSum | guestSegments | FeatureGuestECN
	hostOffloads  = FeatureCSum | FeatureHostTSO4 | FeatureHostTSO6 | FeatureHostECN | FeatureHostUFO | FeatureHostUSO

	// OffloadFeatures are those that a Link decides on.
	OffloadFeatures = guestOffloads | hostOffloads
)

// needs lists what each offload is nothing without (virtio 1.2 §5.1.3.1); one of several is enough.
var needs = []struct{ feature, oneOf uint64 }{
	{FeatureGuestTSO4, FeatureGuestCSum}, {FeatureGuestTSO6, FeatureGuestCSum}, {FeatureGuestUFO, FeatureGuestCSum},
	{FeatureGuestUSO4, FeatureGuestCSum}, {FeatureGuestUSO6, FeatureGuestCSum},
	{FeatureGuestECN, FeatureGuestTSO4 | FeatureGuestTSO6},
	{FeatureHostTSO4, FeatureCSum}, {FeatureHostTSO6, FeatureCSum}, {FeatureHostUFO, FeatureCSum}, {FeatureHostUSO, FeatureCSum},
	{FeatureHostECN, FeatureHostTSO4 | FeatureHostTSO6},
}

// consistent leaves out what is nothing without something that is not there.
func consistent(features uint64) uint64 {
	for _, n := range needs {
		if features&n.oneOf == 0 {
			features &^= n.feature
		}
	}
	return features
}

// Layout of the configuration space (virtio 1.2 §5.1.4).
const (
	configMAC    = 0
	configStatus = 6
	configPairs  = 8
	configMTU    = 10
	configSpeed  = 12
	configDuplex = 16
	configSize   = 20
)

// Bits of the configuration's status.
const (
	statusLinkUp   = 1
	statusAnnounce = 2
)

const (
	maxPairs    = 64
	maxMTU      = 65535
	minMTU      = 68
	queueSize   = 256
	controlSize = 64
	fullDuplex  = 1
	// notifyEvery is after how many chains of a batch the guest is told of them: while it takes some, others are filled.
	notifyEvery = 32
)

// Config is what a network device needs.
type Config struct {
	Link Link
	// MAC is the device's address until the driver gives it another.
	MAC MAC
	// MTU is the largest packet that the network carries, in bytes; 0 does not tell the driver any.
	MTU uint16
	// Speed is the link's speed in Mbit/s as the driver sees it; 0 means 10000.
	Speed uint32
	// QueueSize is the number of descriptors of each receive and transmit queue: a power of two; 0 means 256.
	QueueSize uint16
	// LimitRX and LimitTX bound what the guest receives and sends; nil does not.
	LimitRX, LimitTX *ratelimit.Limiter
	// Logger gets the link's errors, rate-limited. nil discards.
	Logger *slog.Logger
}

// Device is a network device.
type Device struct {
	cfg       Config
	link      Link
	filter    Filterer // nil: the link has none
	features  uint64
	transport virtio.Transport
	limiter   virtio.Limiter
	receivers []receiver
	senders   []sender
	linkDown  atomic.Bool
	pairs     atomic.Int32 // in use

	mu       sync.Mutex // over what Config returns
	mac      MAC
	announce bool

	// What the driver has set up. Only the transport's calls get at it: the control queue's Serve, Activate, Reset and those
	// for the state, none of which runs beside another.
	set settings
}

// New returns a network device on cfg.Link, which is its own from now on.
func New(cfg Config) (*Device, error) {
	if cfg.Speed == 0 {
		cfg.Speed = 10000
	}
	if cfg.QueueSize == 0 {
		cfg.QueueSize = queueSize
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Link == nil:
		return nil, errors.New("network device: no link")
	case cfg.Link.Pairs() < 1 || cfg.Link.Pairs() > maxPairs:
		return nil, fmt.Errorf("network device: %d pairs of queues, between 1 and %d are possible", cfg.Link.Pairs(), maxPairs)
	case !cfg.MAC.unicast():
		return nil, fmt.Errorf("network device: %v is no station's address", cfg.MAC)
	case cfg.MTU != 0 && cfg.MTU < minMTU:
		return nil, fmt.Errorf("network device: an MTU of %d, at least %d is needed", cfg.MTU, minMTU)
	case cfg.Speed > 1<<31-1:
		return nil, fmt.Errorf("network device: a speed of %d Mbit/s", cfg.Speed)
	case cfg.QueueSize&(cfg.QueueSize-1) != 0 || cfg.QueueSize > virtio.MaxQueueSize:
		return nil, fmt.Errorf("network device: a queue size of %d, a power of two up to %d is needed", cfg.QueueSize,
			virtio.MaxQueueSize)
	}
	n := cfg.Link.Pairs()
	d := &Device{cfg: cfg, link: cfg.Link, mac: cfg.MAC, receivers: make([]receiver, n), senders: make([]sender, n)}
	d.filter, _ = cfg.Link.(Filterer)
	d.features = d.offer()
	d.pairs.Store(1)
	return d, nil
}

func (d *Device) offer() uint64 {
	f := FeatureMAC | FeatureStatus | FeatureSpeedDuplex | FeatureMergeable | FeatureCtrlQueue | FeatureCtrlMACAddr |
		FeatureGuestAnnounce
	f |= consistent(d.link.Features() & OffloadFeatures)
	if f&guestOffloads != 0 {
		f |= FeatureCtrlGuestOffloads
	}
	if d.cfg.MTU != 0 {
		f |= FeatureMTU
	}
	if d.filter != nil {
		f |= FeatureCtrlRX
	}
	if d.link.Pairs() > 1 {
		f |= FeatureMultiQueue
	}
	return f
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDNet }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return d.features }

// Queues implements virtio.Device: a receive and a transmit queue for each pair, then the control queue.
func (d *Device) Queues() []uint16 {
	sizes := make([]uint16, 2*d.link.Pairs()+1)
	for i := range sizes {
		sizes[i] = d.cfg.QueueSize
	}
	sizes[len(sizes)-1] = controlSize
	return sizes
}

// Config implements virtio.Device.
func (d *Device) Config() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := make([]byte, configSize)
	le := binary.LittleEndian
	copy(p[configMAC:], d.mac[:])
	var status uint16
	if !d.linkDown.Load() {
		status |= statusLinkUp
	}
	if d.announce {
		status |= statusAnnounce
	}
	le.PutUint16(p[configStatus:], status)
	if d.features&FeatureMultiQueue != 0 {
		le.PutUint16(p[configPairs:], uint16(d.link.Pairs()))
	}
	le.PutUint16(p[configMTU:], d.cfg.MTU)
	le.PutUint32(p[configSpeed:], d.cfg.Speed)
	p[configDuplex] = fullDuplex
	return p
}

// MAC returns the device's address, which the driver may have changed.
func (d *Device) MAC() MAC {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mac
}

// Attach implements virtio.Attacher.
func (d *Device) Attach(t virtio.Transport) { d.transport = t }

func (d *Device) configChanged() {
	if d.transport != nil {
		d.transport.ConfigChanged()
	}
}

// SetLink plugs the cable in or pulls it out. Without it frames go nowhere, in both directions.
func (d *Device) SetLink(up bool) {
	if d.linkDown.Swap(!up) == up {
		d.configChanged()
	}
}

// Announce asks the guest to tell its network where it is (virtio 1.2 §5.1.6.5.4): it has moved.
func (d *Device) Announce() {
	d.mu.Lock()
	d.announce = true
	d.mu.Unlock()
	d.configChanged()
}

// complain logs an error of the link, now and then.
func (d *Device) complain(msg string, err error) {
	if ok, dropped := d.limiter.Allow(); ok {
		d.cfg.Logger.Warn("network device: "+msg, "error", err, "mac", d.cfg.MAC.String(), "suppressed", dropped)
	}
}

// Counters counts one direction.
type Counters struct {
	Frames, Bytes uint64 // that arrived at the other end, without headers
	Drops         uint64 // frames that did not
}

// Stats are a device's counters since it was made. RX is towards the guest.
type Stats struct{ RX, TX Counters }

// Stats may be called at any time. It knows nothing of frames that the link itself has dropped.
func (d *Device) Stats() Stats {
	var s Stats
	for i := range d.receivers {
		d.receivers[i].count.addTo(&s.RX)
		d.senders[i].count.addTo(&s.TX)
	}
	return s
}

// counters is one queue's Counters, of which only that queue's goroutine changes any.
type counters struct{ frames, bytes, drops atomic.Uint64 }

// busyFrames is after how many frames of a queue the device calls itself busy: more than a name that is looked up or a health check
// takes, less than what anybody would wait for.
const busyFrames = 128

// passed counts a frame, header included.
func (d *Device) passed(c *counters, size int) {
	c.bytes.Add(uint64(size - HeaderSize))
	if c.frames.Add(1) == busyFrames && d.transport != nil {
		d.transport.Busy()
	}
}

func (c *counters) addTo(sum *Counters) {
	sum.Frames += c.frames.Load()
	sum.Bytes += c.bytes.Load()
	sum.Drops += c.drops.Load()
}
