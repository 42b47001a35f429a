// Package fs is the virtio file system device (virtio 1.2 §5.11): it carries FUSE requests from the guest's virtqueues to
// a server. It checks what surrounds a request; what the request says is the server's business, which gets a private
// copy of all but the data of a WRITE.
package fs

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/virtio"
)

// Handler carries out one FUSE request: in holds the request, out has room for the reply. It returns the number of bytes
// that it wrote to out, 0 for a request that has no reply. fuse.ProtocolServer is one.
type Handler interface {
	HandleRequest(in, out [][]byte) (int, fuse.Status)
}

// Config describes a device.
type Config struct {
	Tag    string // at most 36 bytes: what the guest mounts
	Server Handler
	// RequestQueues is the number of request queues, 1 by default.
	RequestQueues int
	Logger        *slog.Logger
}

const (
	tagSize   = 36
	queueSize = 256
	// hiprio is the queue of FORGET and INTERRUPT (virtio 1.2 §5.11.2).
	hiprio = 0
	// maxWorkers bounds the requests that are carried out beside the queues' own goroutines.
	maxWorkers = 64
)

// Device is a virtio-fs device.
type Device struct {
	cfg     Config
	limit   virtio.Limiter
	workers chan struct{}

	mu       sync.Mutex
	inited   bool
	inflight map[uint64]struct{} // uniques of requests that workers carry out
	group    sync.WaitGroup
}

// New returns a device.
func New(cfg Config) (*Device, error) {
	if cfg.Tag == "" || len(cfg.Tag) > tagSize {
		return nil, fmt.Errorf("virtio-fs: tag %q: 1 to %d bytes are possible", cfg.Tag, tagSize)
	}
	if cfg.RequestQueues == 0 {
		cfg.RequestQueues = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{cfg: cfg, workers: make(chan struct{}, maxWorkers), inflight: map[uint64]struct{}{}}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDFS }

// Features implements virtio.Device: there are none that we offer.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: the high priority queue, then the request queues.
func (d *Device) Queues() []uint16 {
	sizes := make([]uint16, 1+d.cfg.RequestQueues)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// Config implements virtio.Device (virtio 1.2 §5.11.4).
func (d *Device) Config() []byte {
	b := make([]byte, tagSize+4)
	copy(b, d.cfg.Tag)
	binary.LittleEndian.PutUint32(b[tagSize:], uint32(d.cfg.RequestQueues))
	return b
}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, _ int, q *virtio.Queue) error {
	for ctx.Err() == nil {
		c, err := q.Pop()
		if err != nil {
			return err
		}
		if c == nil {
			return nil
		}
		if err := d.serve(q, c); err != nil {
			return err
		}
		q.Notify()
	}
	return nil
}

// serve carries out one request here, or, if it may block for long, on a worker, so that the queue goes on.
func (d *Device) serve(q *virtio.Queue, c *virtio.Chain) error {
	r := d.parse(c)
	if r.errno != 0 {
		return q.Push(c, r.refuse(c))
	}
	if !mayBlock(r.header.opcode) {
		return q.Push(c, d.carryOut(r, c))
	}
	d.workers <- struct{}{}
	d.begin(r)
	go func() {
		defer func() {
			d.finish(r)
			<-d.workers
		}()
		n := d.carryOut(r, c)
		if err := q.Push(c, n); err != nil {
			d.warn("push", err)
		}
		q.Notify()
	}()
	return nil
}

func (d *Device) begin(r *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.group.Add(1)
	d.inflight[r.header.unique] = struct{}{}
}

func (d *Device) finish(r *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.inflight, r.header.unique)
	d.group.Done()
}

// carryOut has the server answer the request, and returns how many bytes it wrote. A fault of the server's fails the
// request, not the VM.
func (d *Device) carryOut(r *request, c *virtio.Chain) (written uint32) {
	defer func() {
		if p := recover(); p != nil {
			d.warn("request", fmt.Errorf("opcode %d: %v", r.header.opcode, p))
			written = r.reply(c, errIO)
		}
	}()
	n, status := d.cfg.Server.HandleRequest(r.in, c.Writable())
	if status != fuse.OK {
		return r.reply(c, errIO)
	}
	d.note(r)
	return uint32(n)
}

// note follows the session: nothing is served before INIT.
func (d *Device) note(r *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.header.opcode {
	case opInit:
		d.inited = true
	case opDestroy:
		d.inited = false
	}
}

func (d *Device) ready() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inited
}

func (d *Device) warn(what string, err error) {
	if ok, dropped := d.limit.Allow(); ok {
		d.cfg.Logger.Warn("virtio-fs: "+what, "tag", d.cfg.Tag, "error", err, "dropped", dropped)
	}
}

// Reset implements virtio.Device: waits that would last are interrupted, and nothing touches the guest's buffers after
// it returned.
func (d *Device) Reset() {
	d.mu.Lock()
	var waiting []uint64
	for unique := range d.inflight {
		waiting = append(waiting, unique)
	}
	d.inited = false
	d.mu.Unlock()
	for _, unique := range waiting {
		_, _ = d.cfg.Server.HandleRequest([][]byte{interruptRequest(unique)}, nil)
	}
	d.group.Wait()
}
