// Package fs is the virtio file system device (virtio 1.2 §5.11): it carries FUSE requests from the guest's virtqueues to
// a server, and stands between the two. Everything of a request but the data of a WRITE is copied out of guest memory
// once, and checked against its opcode, before the server sees it; replies but for the data of a READ are made in private
// memory. What the server does not need to know about is answered here.
//
// # Threads
//
// A request is carried out in its queue's goroutine if it is of the cheap kind, or if it is a small one and no other
// request is waiting behind it; else in a goroutine of its own, of which there are no more than the queue has chains, so
// that no lock, no slow disk and no big copy holds up what comes after. Requests complete in any order.
package fs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// Handler carries out one FUSE request: in holds the request, out has room for the reply. It returns the number of bytes
// that it wrote to out, 0 for a request that has no reply. It may be called from many goroutines at a time, but INIT comes
// alone. fuse.ProtocolServer is one.
type Handler interface {
	HandleRequest(in, out [][]byte) (int, fuse.Status)
}

// Config describes a device.
type Config struct {
	// Tag is what the guest mounts: 1 to 36 bytes.
	Tag string
	// Server carries the requests out.
	Server Handler
	// Renew, if not nil, is called when a session has ended, by a reset of the device or a DESTROY, and none of its requests
	// is under way any more. It returns the server of the next session, and is the place to forget what the old one left:
	// nodes, open files, locks.
	Renew func() Handler
	// SyncFS carries out SYNCFS, which go-fuse does not know: what was written to the file system of the node goes to
	// disk. nil answers ENOSYS; guests then stop asking.
	SyncFS func(nodeID uint64) fuse.Status
	// RequestQueues is the number of request queues, 1 by default.
	RequestQueues int
	// Logger gets what the driver does wrong, rate-limited. nil discards.
	Logger *slog.Logger
}

const (
	tagSize = 36
	// Each request of Linux takes one entry of a queue, as an indirect table; what waits for locks counts.
	requestQueueSize = 1024
	hiprioQueueSize  = 128
	maxRequestQueues = 64
	// maxWorkers bounds the requests that may be in the host's kernel at a time beside the queues' goroutines, and with
	// them the threads. Waits for locks are not among them.
	maxWorkers = 32
)

// Device is a virtio-fs device.
type Device struct {
	cfg     Config
	limiter virtio.Limiter
	workers chan struct{} // a token for each

	// session guards the server and what was negotiated with it: INIT and what ends a session hold it alone.
	session    sync.RWMutex
	server     Handler
	initReq    []byte      // the INIT that began the session; nil: no session
	ended      atomic.Bool // by DESTROY: nothing but INIT is served
	negotiated negotiated

	mu       sync.Mutex
	inflight map[uint64]*request // in goroutines of their own and not answered yet, by unique
	group    sync.WaitGroup      // those goroutines, and interrupters
	busy     atomic.Int32        // those goroutines: requests whose chains are not given back
	fault    atomic.Pointer[guestmem.FaultError]
}

// New returns a device.
func New(cfg Config) (*Device, error) {
	if cfg.Tag == "" || len(cfg.Tag) > tagSize {
		return nil, fmt.Errorf("virtio-fs: tag %q: use 1 to %d bytes", cfg.Tag, tagSize)
	}
	if cfg.RequestQueues == 0 {
		cfg.RequestQueues = 1
	}
	if cfg.RequestQueues < 0 || cfg.RequestQueues > maxRequestQueues {
		return nil, fmt.Errorf("virtio-fs: %d request queues: use 1 to %d", cfg.RequestQueues, maxRequestQueues)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{
		cfg: cfg, server: cfg.Server, workers: make(chan struct{}, maxWorkers), inflight: map[uint64]*request{},
	}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDFS }

// Features implements virtio.Device: there are none that we offer.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: hiprio, then the request queues (virtio 1.2 §5.11.2).
func (d *Device) Queues() []uint16 {
	sizes := make([]uint16, 1+d.cfg.RequestQueues)
	for i := range sizes {
		sizes[i] = requestQueueSize
	}
	sizes[0] = hiprioQueueSize
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
	if fault := d.fault.Load(); fault != nil {
		return fault
	}
	var next *virtio.Chain
	var nextErr error
	for next != nil || ctx.Err() == nil {
		c := next
		next = nil
		if c == nil {
			if c, nextErr = q.Pop(); c == nil {
				return nextErr
			}
		}
		r := d.fetch(q, c)
		alone := true
		if r.class == small && ctx.Err() == nil {
			next, nextErr = q.Pop()
			alone = next == nil
		}
		if r.class == cheap || r.class == small && alone || !d.start(r) {
			if err := d.complete(r); err != nil {
				return err
			}
		}
		if nextErr != nil {
			return nextErr
		}
	}
	return ctx.Err()
}

// start carries a request out in a goroutine of its own. It returns false when another one with the same unique is
// under way: r is refused then.
func (d *Device) start(r *request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inflight[r.unique] != nil {
		r.refuse(errInvalid, "two requests with the same unique")
		return false
	}
	d.inflight[r.unique] = r
	d.busy.Add(1)
	q := r.queue // not r's any more when it is complete
	d.group.Go(func() {
		defer d.busy.Add(-1)
		if r.class != waits {
			d.workers <- struct{}{}
			defer func() { <-d.workers }()
		}
		d.outcome(q.Guard(func() error { return d.complete(r) }))
	})
	return true
}

// outcome takes down the end of a request in a goroutine of its own. A fault in guest memory is the VM's end, which the next
// Serve tells.
func (d *Device) outcome(err error) {
	if fault := (*guestmem.FaultError)(nil); errors.As(err, &fault) {
		d.fault.Store(fault)
	}
	if err != nil {
		d.complain("push", "error", err)
	}
}

// finished takes a request from those under way.
func (d *Device) finished(r *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inflight[r.unique] == r {
		delete(d.inflight, r.unique)
	}
}

// complete carries a request out and gives its chain back.
func (d *Device) complete(r *request) error {
	d.carryOut(r)
	d.endSession()
	d.finished(r)
	q, c, n := r.queue, r.chain, r.deliver(d)
	r.free()
	err := q.Push(c, n)
	q.Notify()
	return err
}

func (d *Device) complain(msg string, args ...any) {
	if ok, dropped := d.limiter.Allow(); ok {
		d.cfg.Logger.Warn("virtio-fs: "+msg, append(args, "tag", d.cfg.Tag, "suppressed", dropped)...)
	}
}

// Reset implements virtio.Device: waits are interrupted, and nothing touches the guest's buffers after it returned. The
// session ends.
func (d *Device) Reset() {
	d.interruptAll()
	d.session.Lock()
	defer d.session.Unlock()
	if d.initReq != nil {
		d.renew()
	}
}

// renew ends the session. The caller holds d.session.
func (d *Device) renew() {
	d.initReq, d.negotiated = nil, negotiated{}
	d.ended.Store(false)
	if d.cfg.Renew != nil {
		d.server = d.cfg.Renew()
	}
}

// Close interrupts what is under way and waits for its end. The queues are not served any more when it is called.
func (d *Device) Close() error {
	d.interruptAll()
	return nil
}
