// Package tap is a network device's link to the host's kernel: a TAP interface with virtio_net_hdr offloads. It is apart
// from package net because that one opens no files.
package tap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

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
	// Pairs is the number of pairs of queues; 0 means 1. All receive in the first one.
	Pairs int
	// File is Node, opened, for those who cannot open it themselves any more. It may belong to an interface already, which
	// Name need not name then. New takes it over, also when it fails. nil opens Node.
	File *os.File
}

// TAP is a net.Link. Its methods are called as net.Link says; Close may be called at any time.
//
// The interface has one queue, whatever number of pairs the guest has. With several, the kernel puts a flow's frames into the one that
// the guest last sent a frame of the flow from, be the one before empty or not: whenever a process moves to another CPU of
// the guest, frames overtake others, and TCP sends again what was never lost. What several queues would spread, the interrupt gathers on
// one CPU of the guest: a device on virtio-mmio has a single one. Sending goes by a descriptor for each pair, at the same time.
type TAP struct {
	name     string
	features uint64
	queues   []*frames.Queue // of the pairs; only the first one receives
	closing  sync.Once
	closed   chan struct{}
}

// New makes or opens an interface.
func New(cfg Config) (*TAP, error) {
	file := cfg.File
	if file == nil {
		var err error
		if file, err = open(); err != nil {
			return nil, err
		}
	}
	defer file.Close()
	t := &TAP{name: cfg.Name, closed: make(chan struct{})}
	if err := t.setUp(file, max(cfg.Pairs, 1)); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("tap %s: %w", t.name, err)
	}
	return t, nil
}

func open() (*os.File, error) {
	fd, err := unix.Open(Node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("tap: %s: %w: load the kernel's module tun, and make the node: mknod %s c 10 200", Node, err, Node)
	case err != nil:
		return nil, fmt.Errorf("tap: open %s: %w", Node, err)
	}
	return os.NewFile(uintptr(fd), Node), nil
}

// setUp makes the file the interface's queue, and a descriptor of it for each pair.
func (t *TAP) setUp(file *os.File, pairs int) error {
	err := control(file, func(fd int) error {
		if err := t.attach(fd); err != nil {
			return err
		}
		for range pairs {
			// A descriptor of our own, new to Go's poller: on one that belonged to no interface yet when it was registered,
			// epoll waits for ever.
			q, err := frames.New(fd, Node)
			if err != nil {
				return err
			}
			t.queues = append(t.queues, q)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.features = t.probe()
	return t.SetOffloads(0)
}

// Name returns the interface's name, which the kernel may have chosen.
func (t *TAP) Name() string { return t.name }

// Close gives up the interface, which is gone then unless somebody made it to stay.
func (t *TAP) Close() error {
	t.closing.Do(func() { close(t.closed) })
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
	if pair == 0 {
		return t.queues[0].Receive(ctx, buffers, idle)
	}
	idle()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-t.closed:
		return 0, net.ErrClosed
	}
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
