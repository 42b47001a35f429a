// Package rng is the virtio entropy device (virtio 1.2 §5.4).
package rng

import (
	"context"
	"fmt"
	"io"

	"github.com/govmm/govmm/virtio"
)

const (
	queueSize = 64
	// maxRequest bounds the bytes that one request gets, so that no request holds the queue for long. The driver takes
	// what it gets (virtio 1.2 §5.4.6.2).
	maxRequest = 64 << 10
)

// Device gives the guest random bytes.
type Device struct {
	source  io.Reader
	scratch [4096]byte // private: source never sees guest memory
}

// New returns a device that takes its bytes from source, crypto/rand.Reader as a rule. Only one goroutine reads it.
func New(source io.Reader) *Device { return &Device{source: source} }

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDEntropy }

// Features implements virtio.Device: there are none.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: requestq.
func (d *Device) Queues() []uint16 { return []uint16{queueSize} }

// Config implements virtio.Device: there is none.
func (d *Device) Config() []byte { return nil }

// Reset implements virtio.Device.
func (d *Device) Reset() {}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, _ int, q *virtio.Queue) error {
	for ctx.Err() == nil {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		n, err := d.fill(c.Writable())
		if perr := q.Push(c, n); perr != nil {
			return perr
		}
		if err != nil {
			return fmt.Errorf("entropy source: %w", err)
		}
	}
	return ctx.Err()
}

func (d *Device) fill(room [][]byte) (uint32, error) {
	total := 0
	for _, b := range room {
		for len(b) > 0 && total < maxRequest {
			p := d.scratch[:min(len(b), len(d.scratch), maxRequest-total)]
			n, err := io.ReadFull(d.source, p)
			copy(b, p[:n])
			b = b[n:]
			total += n
			if err != nil {
				return uint32(total), err
			}
		}
	}
	return uint32(total), nil
}
