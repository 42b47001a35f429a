// Package virtio is the transport-independent part of virtio 1.2 devices: split virtqueues, feature negotiation and
// the device status machine, and the MMIO transport. It knows no device type; those live in its sub-packages.
package virtio

import (
	"context"

	"github.com/govmm/govmm/guestmem"
)

// DeviceID is a device type (virtio 1.2 §5).
type DeviceID uint32

// The device types that govmm implements.
const (
	IDNet     DeviceID = 1
	IDBlock   DeviceID = 2
	IDConsole DeviceID = 3
	IDEntropy DeviceID = 4
	IDBalloon DeviceID = 5
	IDVsock   DeviceID = 19
	IDMem     DeviceID = 24
	IDFS      DeviceID = 26
)

// Feature bits that are independent of the device type (virtio 1.2 §6).
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

// MaxQueueSize is the largest queue a device of ours offers, in descriptors.
const MaxQueueSize = 1024

// Device is one virtio device as the transport sees it. The transport calls its methods from vCPU threads and from one
// goroutine per queue, so a device guards what they share.
type Device interface {
	// ID returns the device type.
	ID() DeviceID
	// Features returns the device-specific feature bits to offer; the transport adds the generic ones.
	Features() uint64
	// Queues returns the maximum size of each virtqueue, in descriptors.
	Queues() []uint16
	// Config returns a snapshot of the device configuration space, little-endian.
	Config() []byte
	// Serve handles what is available in queue i and returns when the queue is empty, when an error says that the
	// driver broke the rules (ErrMalformed: the transport then asks the driver for a reset), or when ctx is done.
	// It is called after every available-buffer notification, for one queue never twice at a time.
	Serve(ctx context.Context, i int, q *Queue) error
	// Reset returns the device to its initial state. No Serve is running and none starts before it returns. A device
	// with chains in the hands of other goroutines takes them back first: after Reset nobody may write to guest memory.
	Reset()
}

// Transport is what a device may ask of its transport, at any time and from any goroutine, holding any lock of its own
// except inside Config.
type Transport interface {
	// Kick has Serve called for queue i soon, as if the driver had notified it: the host has something for the driver.
	Kick(i int)
	// ConfigChanged sends a configuration change notification (virtio 1.2 §2.3). The device has changed what Config
	// returns before it calls.
	ConfigChanged()
	// Busy says that so much goes on in the device that its queues had better be served in batches than at once. It may be said again.
	Busy()
}

// Attacher is a Device that needs its transport. Attach is called once, before anything else.
type Attacher interface {
	Attach(t Transport)
}

// Activator is a Device that wants to know when the driver set DRIVER_OK, and which features and queues it has; a queue
// that the driver did not set up is nil. After Reset the queues are dead: Pop finds nothing, Push does nothing.
type Activator interface {
	Activate(features uint64, queues []*Queue)
}

// ConfigWriter is a Device whose configuration space the driver may write (virtio 1.2 §2.5). A write outside the
// space never reaches it.
type ConfigWriter interface {
	WriteConfig(offset uint32, p []byte)
}

// SharedMemory is a Device with shared memory regions (virtio 1.2 §2.10).
type SharedMemory interface {
	// SharedMemory returns the guest-physical range of region id; ok is false when there is no such region.
	SharedMemory(id uint32) (base guestmem.Addr, length uint64, ok bool)
}

// StateSaver is a Device with state of its own that a snapshot keeps, besides what it was constructed with. Both are
// called while no Serve runs. UnmarshalState is called on a fresh device, before Activate; it checks what it gets.
type StateSaver interface {
	MarshalState() ([]byte, error)
	UnmarshalState(p []byte) error
}
