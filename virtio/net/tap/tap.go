// Package tap is a network device's link to the host's kernel: a TAP interface with virtio_net_hdr offloads. It is apart
// from package net because that one opens no files.
package tap

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/frames"
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
	queues   []*frames.Queue
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
		var q *frames.Queue
		err := control(f, func(fd int) (err error) {
			if err := t.attach(fd, len(files) > 1); err != nil {
				return err
			}
			// A descriptor of our own, new to Go's poller: on one that belonged to no interface yet when it was registered,
			// epoll waits for ever.
			q, err = frames.New(fd, Node)
			return err
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
		all = append(all, q.Close())
	}
	return errors.Join(all...)
}

// Features implements net.Link.
func (t *TAP) Features() uint64 { return t.features }

// Pairs implements net.Link.
func (t *TAP) Pairs() int { return len(t.queues) }

// Receive implements net.Link.
func (t *TAP) Receive(ctx context.Context, pair int, buffers [][]byte, idle func()) (int, error) {
	return t.queues[pair].Receive(ctx, buffers, idle)
}

// Send implements net.Link. The kernel takes a frame at once, or not at all.
func (t *TAP) Send(_ context.Context, pair int, buffers [][]byte) error {
	return t.queues[pair].Send(buffers)
}

var _ net.Link = (*TAP)(nil)

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
