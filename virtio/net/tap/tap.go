// Package tap is a network device's link to the host's kernel: a TAP interface with virtio_net_hdr offloads. It is apart
// from package net because that one opens no files.
package tap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

// Node is the device that TAPs are made of.
const Node = "/dev/net/tun"

// Config is what a TAP needs.
type Config struct {
	// Name is the interface's name. One that does not exist is made, and goes with Close; a "%d" in it stands for a number
	// of the kernel's choice. An interface belongs to the network namespace in which Node was opened.
	Name string
	// Pairs is the number of pairs of queues; 0 means 1. An interface that exists must have been made for more than one.
	Pairs int
	// Files are Node, opened as many times as there are pairs, for those who cannot open it themselves any more. They may
	// belong to an interface already, which Name need not name then. New takes them over, also when it fails. nil opens Node.
	Files []*os.File
}

// TAP is a net.Link. Its methods are called as net.Link says; Close may be called at any time.
type TAP struct {
	name     string
	features uint64
	queues   []*queue
	attached int // the first ones
}

// New makes or opens an interface.
func New(cfg Config) (*TAP, error) {
	if cfg.Pairs == 0 {
		cfg.Pairs = max(len(cfg.Files), 1)
	}
	files := cfg.Files
	if files == nil {
		var err error
		if files, err = open(cfg.Pairs); err != nil {
			return nil, err
		}
	}
	defer closeAll(files)
	if len(files) != cfg.Pairs {
		return nil, fmt.Errorf("tap: %d open files for %d pairs of queues", len(files), cfg.Pairs)
	}
	t := &TAP{name: cfg.Name}
	if err := t.attachAll(files); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("tap %s: %w", t.name, err)
	}
	return t, nil
}

func open(n int) (files []*os.File, err error) {
	for range n {
		fd, err := unix.Open(Node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
			closeAll(files)
			return nil, fmt.Errorf("tap: %s: %w: load the kernel's module tun, and make the node: mknod %s c 10 200", Node, err, Node)
		case err != nil:
			closeAll(files)
			return nil, fmt.Errorf("tap: open %s: %w", Node, err)
		}
		files = append(files, os.NewFile(uintptr(fd), Node))
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// attachAll makes a queue of each file, and takes all but the first one out of use.
func (t *TAP) attachAll(files []*os.File) error {
	for _, f := range files {
		q := &queue{}
		err := control(f, func(fd int) error {
			if err := t.attach(fd, len(files) > 1); err != nil {
				return err
			}
			// A descriptor of our own, new to Go's poller: on one that belonged to no interface yet when it was registered,
			// epoll waits for ever.
			return q.dup(fd)
		})
		if err != nil {
			return err
		}
		t.queues = append(t.queues, q)
	}
	t.attached = len(t.queues)
	t.features = t.probe()
	if err := t.SetOffloads(0); err != nil {
		return err
	}
	return t.SetPairs(1)
}

// Name returns the interface's name, which the kernel may have chosen.
func (t *TAP) Name() string { return t.name }

// Close gives up the interface, which is gone then unless somebody made it to stay.
func (t *TAP) Close() error {
	var all []error
	for _, q := range t.queues {
		all = append(all, q.file.Close())
	}
	return errors.Join(all...)
}

// Features implements net.Link.
func (t *TAP) Features() uint64 { return t.features }

// Pairs implements net.Link.
func (t *TAP) Pairs() int { return len(t.queues) }

// Receive implements net.Link.
func (t *TAP) Receive(ctx context.Context, pair int, buffers [][]byte, idle func()) (int, error) {
	return t.queues[pair].receive(ctx, buffers, idle)
}

// Send implements net.Link. The kernel takes a frame at once, or not at all.
func (t *TAP) Send(_ context.Context, pair int, buffers [][]byte) error {
	return t.queues[pair].send(buffers)
}

// queue is one descriptor of the interface.
type queue struct {
	file *os.File
	in   vector // of the one who receives
	out  vector // of the one who sends

	rx struct {
		conn func(fd uintptr) bool // kept, so that none is made for each frame
		n    int
		err  error
		idle func()
	}
	tx struct {
		conn func(fd uintptr)
		err  error
	}
	raw syscall.RawConn
	// waiting is what ends a wait of the receiver's: the end of its context.
	waiting *interruption
}

// dup fills q with a duplicate of fd.
func (q *queue) dup(fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(own, true); err != nil {
		_ = unix.Close(own)
		return os.NewSyscallError("fcntl", err)
	}
	q.file = os.NewFile(uintptr(own), Node)
	q.rx.conn, q.tx.conn = q.tryRead, q.tryWrite
	q.raw, err = q.file.SyscallConn()
	return err
}

// tryRead reads a frame, or says that there is none and the poller must wait for one.
func (q *queue) tryRead(fd uintptr) bool {
	for {
		q.rx.n, q.rx.err = q.in.read(fd)
		switch {
		case errors.Is(q.rx.err, unix.EINTR):
			continue
		case errors.Is(q.rx.err, unix.EAGAIN):
			q.rx.idle()
			return false
		}
		return true
	}
}

func (q *queue) tryWrite(fd uintptr) {
	for {
		q.tx.err = q.out.write(fd)
		if !errors.Is(q.tx.err, unix.EINTR) {
			return
		}
	}
}

func (q *queue) receive(ctx context.Context, buffers [][]byte, idle func()) (int, error) {
	if q.waiting == nil || q.waiting.ctx != ctx {
		if err := q.watch(ctx); err != nil {
			return 0, err
		}
	}
	q.in.set(buffers)
	q.rx.idle, q.rx.err = idle, nil
	err := q.raw.Read(q.rx.conn)
	q.in.clear()
	switch {
	case err != nil && ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil: // the file is closed: the poller has no other error
		return 0, fmt.Errorf("%w (%v)", net.ErrClosed, err)
	case q.rx.err != nil:
		return 0, closedOr(os.NewSyscallError("readv", q.rx.err))
	}
	return q.rx.n, nil
}

func (q *queue) send(buffers [][]byte) error {
	q.out.set(buffers)
	err := q.raw.Control(q.tx.conn)
	q.out.clear()
	switch {
	case err != nil:
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	case errors.Is(q.tx.err, unix.EINVAL) || errors.Is(q.tx.err, unix.EMSGSIZE):
		return net.ErrBadFrame
	case q.tx.err != nil:
		return closedOr(os.NewSyscallError("writev", q.tx.err))
	}
	return nil
}

// closedOr recognises a queue or an interface that is not there any more.
func closedOr(err error) error {
	if errors.Is(err, unix.EBADFD) {
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	}
	return err
}

// interruption lets the end of a context end a wait in the poller.
type interruption struct {
	ctx   context.Context
	stop  func() bool
	ended chan struct{} // closed after the deadline was set
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// watch has the end of ctx end reads from now on, and no longer that of the context before. It is kept from frame to
// frame.
func (q *queue) watch(ctx context.Context) error {
	if w := q.waiting; w != nil {
		q.waiting = nil
		if !w.stop() {
			<-w.ended
		}
		if err := q.file.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("%w (%v)", net.ErrClosed, err)
		}
	}
	w := &interruption{ctx: ctx, ended: make(chan struct{})}
	w.stop = context.AfterFunc(ctx, func() {
		_ = q.file.SetReadDeadline(past)
		close(w.ended)
	})
	q.waiting = w
	return nil
}

// control calls f with the descriptor and returns its error, or that of a closed file.
func control(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
