// Package eventkick makes virtio.Kick from an eventfd that KVM signals as an ioeventfd. It is apart from package virtio
// because that one opens no files.
package eventkick

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kick is a virtio.Kick on a non-blocking eventfd: its Wait parks the goroutine in the Go runtime's poller, which holds
// no thread. One goroutine waits at a time.
type Kick struct {
	file *os.File
	raw  syscall.RawConn
	try  func(fd uintptr) bool // kept, so that none is made for each Wait

	poked   atomic.Bool
	pending func() bool
	parked  bool
	err     error
}

// New returns a Kick with nothing pending. The caller closes it.
func New() (*Kick, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("queue notification: %w", os.NewSyscallError("eventfd2", err))
	}
	k := &Kick{file: os.NewFile(uintptr(fd), "virtio-kick")}
	k.try = k.done
	if k.raw, err = k.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, k.file.Close())
	}
	return k, nil
}

// Control calls f with the descriptor, to register it as an ioeventfd. f must not keep it.
func (k *Kick) Control(f func(fd int)) error {
	c, err := k.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { f(int(fd)) })
}

// Wait implements virtio.Kick. The poller is edge-triggered, and KVM's every signal is an edge: where the ring can be asked, nobody has to
// read the counter, which saves two system calls a notification. Raw.Read forgets an edge that came before it, and only then calls done.
func (k *Kick) Wait(pending func() bool) error {
	k.pending, k.parked, k.err = pending, false, nil
	if err := k.raw.Read(k.try); err != nil {
		return err
	}
	return k.err
}

// done is called before the goroutine is parked, and when it was woken.
func (k *Kick) done(fd uintptr) bool {
	if k.pending == nil {
		return k.read(int(fd))
	}
	woken := k.parked
	k.parked = true
	return woken || k.poked.Swap(false) || k.pending()
}

// read takes what the counter holds: a notification from before Wait, of this one or of one that was not read.
func (k *Kick) read(fd int) bool {
	var count [8]byte
	for {
		_, err := unix.Read(fd, count[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			k.err = os.NewSyscallError("read", err)
		}
		return true
	}
}

// Poke implements virtio.Kick. The only way it can fail, a counter at its maximum, leaves the wait ended all the same.
func (k *Kick) Poke() {
	one := [8]byte{1}
	k.poked.Store(true)
	_, _ = k.file.Write(one[:])
}

// Close implements virtio.Kick. It ends a Wait with an error.
func (k *Kick) Close() error { return k.file.Close() }
