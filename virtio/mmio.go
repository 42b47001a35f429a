package virtio

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/govmm/govmm/guestmem"
)

// MMIOSize is the size of a device's register block that KVM must trap, in bytes: 256 of registers, the rest for the
// configuration space.
const MMIOSize = 0x1000

// Register offsets (virtio 1.2 §4.2.2).
const (
	RegMagicValue        = 0x000
	RegVersion           = 0x004
	RegDeviceID          = 0x008
	RegVendorID          = 0x00c
	RegDeviceFeatures    = 0x010
	RegDeviceFeaturesSel = 0x014
	RegDriverFeatures    = 0x020
	RegDriverFeaturesSel = 0x024
	RegQueueSel          = 0x030
	RegQueueSizeMax      = 0x034
	RegQueueSize         = 0x038
	RegQueueReady        = 0x044
	RegQueueNotify       = 0x050
	RegInterruptStatus   = 0x060
	RegInterruptACK      = 0x064
	RegStatus            = 0x070
	RegQueueDescLow      = 0x080
	RegQueueDescHigh     = 0x084
	RegQueueDriverLow    = 0x090
	RegQueueDriverHigh   = 0x094
	RegQueueDeviceLow    = 0x0a0
	RegQueueDeviceHigh   = 0x0a4
	RegSHMSel            = 0x0ac
	RegSHMLenLow         = 0x0b0
	RegSHMLenHigh        = 0x0b4
	RegSHMBaseLow        = 0x0b8
	RegSHMBaseHigh       = 0x0bc
	RegConfigGeneration  = 0x0fc
	RegConfig            = 0x100
)

// Values of the identification registers.
const (
	MagicValue = 0x74726976 // "virt"
	Version    = 2
	VendorID   = 0x4d4d5647 // "GVMM"
)

// Bits of InterruptStatus.
const (
	InterruptUsed   = 1
	InterruptConfig = 2
)

// MMIOConfig is what a transport needs from the machine around it.
type MMIOConfig struct {
	// Name names the device in log lines.
	Name string
	// Interrupt raises the device's interrupt, by one edge. It does not block and may be called from any goroutine.
	Interrupt func()
	// Busy is what a device says by Transport.Busy. nil does nothing.
	Busy func()
	// Logger gets what the driver does wrong, rate-limited. nil discards.
	Logger *slog.Logger
}

// MMIO is a virtio-mmio device, version 2 (virtio 1.2 §4.2). vCPU threads call ReadMMIO and WriteMMIO; ServeQueue runs
// in one goroutine per queue.
type MMIO struct {
	cfg     MMIOConfig
	mem     *guestmem.Memory
	limiter Limiter

	status    atomic.Uint32
	interrupt atomic.Uint32 // InterruptStatus
	// irq is held over what must not happen in the middle of a reset: raising an interrupt because of what status says.
	// It is the last lock of all.
	irq      sync.Mutex
	attached atomic.Pointer[attachment]

	// control is held over each write that may wait for a Serve to end: other vCPUs that write wait too, while reads,
	// notifications and interrupts go on. It is taken before mu.
	control sync.Mutex

	// mu guards what follows and is held for moments only. Devices' Config is called under it, so that no method of
	// Transport may take it.
	mu             sync.Mutex
	live           bool // DRIVER_OK, activated, neither failed nor in need of a reset
	featuresSel    uint32
	driverFeatSel  uint32
	queueSel       uint32
	shmSel         uint32
	driverFeatures uint64
	foreignBits    bool // the driver wrote feature bits that are beyond 64
	generation     uint32
	config         []byte // as the driver last saw it
}

// attachment is a device in its slot; it does not change once it is there.
type attachment struct {
	dev     Device
	offered uint64
	slots   []*slot
}

// slot is a virtqueue's place in the transport. Fields without a comment are guarded by MMIO.mu.
type slot struct {
	maxSize uint16 // constant
	cfg     QueueConfig
	ready   bool
	queue   *Queue // nil unless ready
	parent  context.Context
	ctx     context.Context // of the Serve that runs
	cancel  context.CancelFunc

	run  sync.Mutex // held while Serve runs; taken before MMIO.mu
	kick atomic.Pointer[Kick]
}

// NewMMIO returns the transport of dev, in reset state. Without a device the slot is spare: it shows DeviceID 0, which
// drivers must ignore (virtio 1.2 §4.2.2.1), until Attach.
func NewMMIO(dev Device, mem *guestmem.Memory, cfg MMIOConfig) *MMIO {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Interrupt == nil {
		cfg.Interrupt = func() {}
	}
	if cfg.Busy == nil {
		cfg.Busy = func() {}
	}
	m := &MMIO{cfg: cfg, mem: mem}
	if dev != nil {
		m.attach(dev)
	}
	return m
}

// Attach puts a device into a spare slot.
func (m *MMIO) Attach(dev Device) error {
	m.control.Lock()
	defer m.control.Unlock()
	if m.attached.Load() != nil {
		return errors.New("virtio: the slot has a device already")
	}
	m.attach(dev)
	return nil
}

// Detach takes the device out of its slot, whatever the driver is doing with it: the device has been reset when it returns, and the
// slot is spare again. The caller has ended those who serve the queues, or does so now.
func (m *MMIO) Detach() {
	m.control.Lock()
	defer m.control.Unlock()
	a := m.attached.Load()
	if a == nil {
		return
	}
	m.reset(a)
	m.attached.Store(nil)
}

func (m *MMIO) attach(dev Device) {
	a := &attachment{dev: dev}
	a.offered = dev.Features() | FeatureVersion1 | FeatureIndirectDesc | FeatureEventIdx
	for _, size := range dev.Queues() {
		a.slots = append(a.slots, &slot{maxSize: size, cfg: QueueConfig{Size: size}})
	}
	m.mu.Lock()
	m.config = dev.Config()
	m.mu.Unlock()
	if d, ok := dev.(Attacher); ok {
		d.Attach(port{m, a})
	}
	m.attached.Store(a)
}

// Device returns the device, or nil for a spare slot.
func (m *MMIO) Device() Device {
	if a := m.attached.Load(); a != nil {
		return a.dev
	}
	return nil
}

// Queues returns the number of the device's virtqueues.
func (m *MMIO) Queues() int {
	if a := m.attached.Load(); a != nil {
		return len(a.slots)
	}
	return 0
}

// port is the Transport that a device sees.
type port struct {
	m *MMIO
	a *attachment
}

func (p port) Kick(i int) { p.a.kick(i) }

func (p port) ConfigChanged() { p.m.configChanged() }

func (p port) Busy() { p.m.cfg.Busy() }

// kick wakes queue i's goroutine. Without one nothing is lost: ServeQueue begins with a look at the queue.
func (a *attachment) kick(i int) {
	if i < 0 || i >= len(a.slots) {
		return
	}
	if k := a.slots[i].kick.Load(); k != nil {
		(*k).Poke()
	}
}

func (m *MMIO) configChanged() {
	m.irq.Lock()
	defer m.irq.Unlock()
	if m.status.Load()&StatusDriverOK != 0 {
		m.raise(InterruptConfig)
	}
}

func (m *MMIO) usedNotification() { m.raise(InterruptUsed) }

// raise tells the driver of an event, unless it has not yet acknowledged an earlier one of this kind: it looks for events after it has.
func (m *MMIO) raise(bit uint32) {
	if m.interrupt.Or(bit)&bit == 0 {
		m.cfg.Interrupt()
	}
}

// complain logs what the driver did wrong, now and then.
func (m *MMIO) complain(msg string, args ...any) {
	if ok, dropped := m.limiter.Allow(); ok {
		m.cfg.Logger.Warn("virtio: "+msg, append(args, "device", m.cfg.Name, "suppressed", dropped)...)
	}
}

// ReadMMIO fills p, the destination of a load of 1, 2, 4 or 8 bytes at off in the register block. What does not exist
// reads as zero.
func (m *MMIO) ReadMMIO(off uint64, p []byte) {
	clear(p)
	a := m.attached.Load()
	switch {
	case off >= RegConfig:
		if a != nil {
			m.readConfig(a, off-RegConfig, p)
		}
	case len(p) != 4 || off%4 != 0:
		m.complain("register read that is not of 32 bits", "offset", off, "width", len(p))
	default:
		binary.LittleEndian.PutUint32(p, m.readRegister(a, uint32(off)))
	}
}

func (m *MMIO) readRegister(a *attachment, off uint32) uint32 {
	switch off {
	case RegMagicValue:
		return MagicValue
	case RegVersion:
		return Version
	case RegVendorID:
		return VendorID
	case RegInterruptStatus:
		return m.interrupt.Load()
	case RegStatus:
		return m.status.Load()
	}
	if a == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch off {
	case RegDeviceID:
		return uint32(a.dev.ID())
	case RegDeviceFeatures:
		return word(a.offered, m.featuresSel)
	case RegQueueSizeMax:
		if s := m.selected(a); s != nil {
			return uint32(s.maxSize)
		}
	case RegQueueReady:
		if s := m.selected(a); s != nil && s.ready {
			return 1
		}
	case RegSHMLenLow, RegSHMLenHigh, RegSHMBaseLow, RegSHMBaseHigh:
		return m.sharedMemory(a, off)
	case RegConfigGeneration:
		m.refreshConfig(a)
		return m.generation
	}
	return 0
}

// word returns 32-bit word i of v; there are two.
func word(v uint64, i uint32) uint32 {
	if i > 1 {
		return 0
	}
	return uint32(v >> (32 * i))
}

// selected returns the queue that QueueSel names, or nil.
func (m *MMIO) selected(a *attachment) *slot {
	if uint64(m.queueSel) >= uint64(len(a.slots)) {
		return nil
	}
	return a.slots[m.queueSel]
}

// sharedMemory reads as length -1 where there is no region (virtio 1.2 §4.2.2).
func (m *MMIO) sharedMemory(a *attachment, off uint32) uint32 {
	base, length := ^uint64(0), ^uint64(0)
	if d, ok := a.dev.(SharedMemory); ok {
		if b, n, ok := d.SharedMemory(m.shmSel); ok {
			base, length = uint64(b), n
		}
	}
	switch off {
	case RegSHMLenLow:
		return word(length, 0)
	case RegSHMLenHigh:
		return word(length, 1)
	case RegSHMBaseLow:
		return word(base, 0)
	}
	return word(base, 1)
}

// refreshConfig counts a new generation when the configuration is not what the driver saw last. Because each read of
// the space or of ConfigGeneration does so, two equal generations enclose reads of one state (virtio 1.2 §2.5.1).
func (m *MMIO) refreshConfig(a *attachment) {
	if now := a.dev.Config(); !slices.Equal(now, m.config) {
		m.config = now
		m.generation++
	}
}

func (m *MMIO) readConfig(a *attachment, off uint64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refreshConfig(a)
	if off < uint64(len(m.config)) {
		copy(p, m.config[off:])
	}
}

// WriteMMIO carries out a store of p at off. A write of Status or QueueReady that stops queues returns when no Serve
// runs on them any more: it cancels the context of those that do, and waits for what a device cannot cancel.
func (m *MMIO) WriteMMIO(off uint64, p []byte) {
	a := m.attached.Load()
	if a == nil {
		return
	}
	if off >= RegConfig {
		m.writeConfig(a, off-RegConfig, p)
		return
	}
	if len(p) != 4 || off%4 != 0 {
		m.complain("register write that is not of 32 bits", "offset", off, "width", len(p))
		return
	}
	v := binary.LittleEndian.Uint32(p)
	switch off {
	case RegQueueNotify:
		// Usually an ioeventfd takes these and KVM does not exit.
		a.kick(int(min(v, MaxQueueSize)))
	case RegInterruptACK:
		m.interrupt.And(^v)
	case RegStatus:
		m.writeStatus(a, v)
	case RegQueueReady:
		m.writeQueueReady(a, v)
	default:
		m.mu.Lock()
		defer m.mu.Unlock()
		m.writeRegister(a, uint32(off), v)
	}
}

func (m *MMIO) writeRegister(a *attachment, off, v uint32) {
	switch off {
	case RegDeviceFeaturesSel:
		m.featuresSel = v
	case RegDriverFeaturesSel:
		m.driverFeatSel = v
	case RegDriverFeatures:
		m.writeDriverFeatures(v)
	case RegQueueSel:
		m.queueSel = v
	case RegSHMSel:
		m.shmSel = v
	case RegQueueSize, RegQueueDescLow, RegQueueDescHigh, RegQueueDriverLow, RegQueueDriverHigh,
		RegQueueDeviceLow, RegQueueDeviceHigh:
		// A queue that is ready must not be changed (virtio 1.2 §4.2.2.2), and one that is not there cannot be.
		if s := m.selected(a); s != nil && !s.ready {
			s.write(off, v)
		} else {
			m.complain("set-up of a queue that is in use or does not exist", "queue", m.queueSel, "offset", off)
		}
	default:
		m.complain("write to a register that is not writable", "offset", off)
	}
}

func (s *slot) write(off, v uint32) {
	switch off {
	case RegQueueSize:
		s.cfg.Size = uint16(min(v, 0xffff)) // 0xffff is no power of two: refused when the queue is made ready
	case RegQueueDescLow:
		setLow(&s.cfg.DescTable, v)
	case RegQueueDescHigh:
		setHigh(&s.cfg.DescTable, v)
	case RegQueueDriverLow:
		setLow(&s.cfg.AvailRing, v)
	case RegQueueDriverHigh:
		setHigh(&s.cfg.AvailRing, v)
	case RegQueueDeviceLow:
		setLow(&s.cfg.UsedRing, v)
	case RegQueueDeviceHigh:
		setHigh(&s.cfg.UsedRing, v)
	}
}

func setLow(a *guestmem.Addr, v uint32)  { *a = *a>>32<<32 | guestmem.Addr(v) }
func setHigh(a *guestmem.Addr, v uint32) { *a = *a&0xffffffff | guestmem.Addr(v)<<32 }

func (m *MMIO) writeDriverFeatures(v uint32) {
	if m.status.Load()&StatusFeaturesOK != 0 {
		m.complain("feature negotiation after FEATURES_OK")
		return
	}
	switch m.driverFeatSel {
	case 0:
		m.driverFeatures = m.driverFeatures>>32<<32 | uint64(v)
	case 1:
		m.driverFeatures = m.driverFeatures&0xffffffff | uint64(v)<<32
	default:
		m.foreignBits = m.foreignBits || v != 0
	}
}

func (m *MMIO) writeConfig(a *attachment, off uint64, p []byte) {
	w, ok := a.dev.(ConfigWriter)
	if size := uint64(len(a.dev.Config())); !ok || off >= size || uint64(len(p)) > size-off {
		m.complain("write to configuration space that is not writable", "offset", off, "width", len(p))
		return
	}
	w.WriteConfig(uint32(off), p)
}
