package virtio

import "io"

// Kick is how a queue's goroutine waits for available-buffer notifications. It is the one place that decides how it
// waits: package eventkick has the ioeventfd, NewChanKick a channel for tests.
type Kick interface {
	// Wait blocks until Poke was called, or the driver notified, since the last Wait returned; it may return without. Where pending is not
	// nil, it says whether there is work without a notification, or the next notification will be one for other work: one that the driver
	// sent before Wait was called may then be forgotten, if pending is asked afterwards.
	Wait(pending func() bool) error
	// Poke ends the current or the next Wait. It does not block.
	Poke()
	io.Closer
}

type chanKick struct {
	c      chan struct{}
	closed chan struct{}
}

// NewChanKick returns a Kick without a file descriptor: only Poke ends its Wait.
func NewChanKick() Kick { return &chanKick{make(chan struct{}, 1), make(chan struct{})} }

func (k *chanKick) Wait(func() bool) error {
	select {
	case <-k.c:
		return nil
	case <-k.closed:
		return io.ErrClosedPipe
	}
}

func (k *chanKick) Poke() {
	select {
	case k.c <- struct{}{}:
	default:
	}
}

func (k *chanKick) Close() error {
	close(k.closed)
	return nil
}
