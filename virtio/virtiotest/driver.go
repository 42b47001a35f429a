// Package virtiotest is a virtio driver for tests: it sets a device up through its MMIO registers as Linux does, builds
// descriptor chains in heap memory, and looks at the used ring and the interrupt. FuzzDevice drives any device with
// hostile sequences of operations.
package virtiotest

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// RAMBase is the guest-physical address of the driver's memory.
const RAMBase guestmem.Addr = 0x10_0000

// Options adjusts New. The zero value is an ordinary driver.
type Options struct {
	// Without are feature bits that the driver leaves out of what the device offers.
	Without uint64
	// QueueSize bounds the queues' sizes; 0 means 64.
	QueueSize uint16
	// RAM is the size of guest memory in bytes; 0 means 4 MiB.
	RAM int
	// Manual leaves the queues without goroutines: Kick serves the queue, then every other one, once each.
	Manual bool
	// Acks acknowledges each interrupt as soon as it is raised.
	Acks bool
	// Direct makes chains of the queue's own descriptors even when indirect tables were negotiated.
	Direct bool
	// Uninitialised leaves the device in reset state; call Init.
	Uninitialised bool
	// Logger gets the transport's log lines.
	Logger *slog.Logger
}

// Driver is the driver's side of one device. It is not safe for concurrent use; the device's goroutines run beside it.
type Driver struct {
	T        testing.TB
	MMIO     *virtio.MMIO
	Mem      *guestmem.Memory
	RAM      []byte // what Mem is made of; its first byte is at RAMBase
	Features uint64 // negotiated
	Queues   []*Queue

	opts       Options
	heap       heap
	interrupts atomic.Int64
	irq        chan struct{}
	cancel     context.CancelFunc
	workers    sync.WaitGroup
}

// New puts dev behind an MMIO transport and, unless told otherwise, brings it to DRIVER_OK and serves its queues until
// the test ends.
func New(t testing.TB, dev virtio.Device, opts Options) *Driver {
	t.Helper()
	if opts.QueueSize == 0 {
		opts.QueueSize = 64
	}
	if opts.RAM == 0 {
		opts.RAM = 4 << 20
	}
	d := &Driver{T: t, RAM: make([]byte, opts.RAM), opts: opts, irq: make(chan struct{}, 1)}
	d.Mem = guestmem.FromBytes(RAMBase, d.RAM)
	d.heap.reset(uint64(RAMBase), uint64(opts.RAM))
	d.MMIO = virtio.NewMMIO(dev, d.Mem, virtio.MMIOConfig{Name: "test", Interrupt: d.interrupt, Logger: opts.Logger})
	if !opts.Manual {
		d.StartWorkers()
		t.Cleanup(d.StopWorkers)
	}
	if !opts.Uninitialised {
		d.Init()
	}
	return d
}

func (d *Driver) interrupt() {
	d.interrupts.Add(1)
	if d.opts.Acks {
		d.Ack()
	}
	select {
	case d.irq <- struct{}{}:
	default:
	}
}

// StartWorkers serves each queue in a goroutine.
func (d *Driver) StartWorkers() {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	for i := range d.MMIO.Queues() {
		kick := virtio.NewChanKick()
		d.workers.Go(func() {
			if err := d.MMIO.ServeQueue(ctx, i, kick); err != nil {
				d.T.Errorf("ServeQueue(%d): %v", i, err)
			}
			_ = kick.Close()
		})
	}
}

// StopWorkers ends what StartWorkers began.
func (d *Driver) StopWorkers() {
	if d.cancel != nil {
		d.cancel()
		d.workers.Wait()
		d.cancel = nil
	}
}

// Read32 reads a register.
func (d *Driver) Read32(off uint64) uint32 {
	var p [4]byte
	d.MMIO.ReadMMIO(off, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

// Write32 writes a register.
func (d *Driver) Write32(off uint64, v uint32) {
	d.MMIO.WriteMMIO(off, binary.LittleEndian.AppendUint32(nil, v))
}

// ReadConfig reads n bytes of configuration space at off, byte by byte as Linux does for arrays.
func (d *Driver) ReadConfig(off uint64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		d.MMIO.ReadMMIO(virtio.RegConfig+off+uint64(i), p[i:i+1])
	}
	return p
}

// Status reads the device status.
func (d *Driver) Status() uint32 { return d.Read32(virtio.RegStatus) }

// Init resets the device and brings it to DRIVER_OK (virtio 1.2 §3.1.1).
func (d *Driver) Init() {
	d.T.Helper()
	d.Prepare()
	d.DriverOK()
}

// Prepare is all of Init but DRIVER_OK.
func (d *Driver) Prepare() {
	d.T.Helper()
	d.Reset()
	if got := d.Read32(virtio.RegMagicValue); got != virtio.MagicValue {
		d.T.Fatalf("magic value %#x", got)
	}
	d.addStatus(virtio.StatusAcknowledge)
	d.addStatus(virtio.StatusDriver)
	d.Negotiate(d.Offered() &^ d.opts.Without)
	if d.Status()&virtio.StatusFeaturesOK == 0 {
		d.T.Fatalf("FEATURES_OK did not stick for %#x of %#x", d.Features, d.Offered())
	}
	for i := range d.MMIO.Queues() {
		d.Queues = append(d.Queues, d.setUpQueue(i))
	}
}

// DriverOK sets DRIVER_OK.
func (d *Driver) DriverOK() {
	d.T.Helper()
	d.addStatus(virtio.StatusDriverOK)
	if got := d.Status(); got&virtio.StatusDriverOK == 0 {
		d.T.Fatalf("DRIVER_OK did not stick: status %#x", got)
	}
}

// Reset resets the device and forgets all queues and memory.
func (d *Driver) Reset() {
	d.T.Helper()
	d.Write32(virtio.RegStatus, 0)
	if got := d.Status(); got != 0 {
		d.T.Fatalf("status %#x after a reset", got)
	}
	d.Queues = nil
	d.heap.reset(uint64(RAMBase), uint64(len(d.RAM)))
}

func (d *Driver) addStatus(bit uint32) { d.Write32(virtio.RegStatus, d.Status()|bit) }

// Offered reads the features that the device offers.
func (d *Driver) Offered() uint64 {
	d.Write32(virtio.RegDeviceFeaturesSel, 0)
	v := uint64(d.Read32(virtio.RegDeviceFeatures))
	d.Write32(virtio.RegDeviceFeaturesSel, 1)
	return v | uint64(d.Read32(virtio.RegDeviceFeatures))<<32
}

// Negotiate selects features and asks for FEATURES_OK.
func (d *Driver) Negotiate(features uint64) {
	d.Features = features
	for i := range uint32(2) {
		d.Write32(virtio.RegDriverFeaturesSel, i)
		d.Write32(virtio.RegDriverFeatures, uint32(features>>(32*i)))
	}
	d.addStatus(virtio.StatusFeaturesOK)
}

func (d *Driver) setUpQueue(i int) *Queue {
	d.T.Helper()
	d.Write32(virtio.RegQueueSel, uint32(i))
	size := uint16(min(d.Read32(virtio.RegQueueSizeMax), uint32(d.opts.QueueSize)))
	q := newQueue(d, i, size)
	d.Write32(virtio.RegQueueSize, uint32(size))
	for _, r := range []struct {
		reg uint64
		a   guestmem.Addr
	}{
		{virtio.RegQueueDescLow, q.DescTable},
		{virtio.RegQueueDriverLow, q.AvailRing},
		{virtio.RegQueueDeviceLow, q.UsedRing},
	} {
		d.Write32(r.reg, uint32(r.a))
		d.Write32(r.reg+4, uint32(r.a>>32))
	}
	d.Write32(virtio.RegQueueReady, 1)
	if d.Read32(virtio.RegQueueReady) != 1 {
		d.T.Fatalf("queue %d is not ready", i)
	}
	return q
}

// Interrupts returns the number of interrupts so far.
func (d *Driver) Interrupts() int64 { return d.interrupts.Load() }

// Ack reads and acknowledges InterruptStatus, as an interrupt handler does.
func (d *Driver) Ack() uint32 {
	v := d.Read32(virtio.RegInterruptStatus)
	d.Write32(virtio.RegInterruptACK, v)
	return v
}

// Timeout bounds every wait of the driver.
const Timeout = 20 * time.Second

// waitInterrupt waits for an interrupt that nobody took yet.
func (d *Driver) waitInterrupt(deadline <-chan time.Time) bool {
	select {
	case <-d.irq:
		d.Ack()
		return true
	case <-deadline:
		return false
	}
}

// WaitInterrupt waits for the next interrupt, acknowledges it and returns InterruptStatus.
func (d *Driver) WaitInterrupt() uint32 {
	d.T.Helper()
	select {
	case <-d.irq:
		return d.Ack()
	case <-time.After(Timeout):
		d.T.Fatal("no interrupt")
		return 0
	}
}

// Eventually waits for ok, which it calls now and then.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Timeout); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// Move puts another device, in reset state, behind a new transport over the same memory, as a restore from a snapshot
// does: the driver does not notice when MMIO.UnmarshalBinary follows. The workers must be stopped.
func (d *Driver) Move(dev virtio.Device) {
	d.MMIO = virtio.NewMMIO(dev, d.Mem, virtio.MMIOConfig{Name: "test", Interrupt: d.interrupt, Logger: d.opts.Logger})
}
