// Package eventkick makes virtio.Kick from an eventfd that KVM signals as an ioeventfd. It is apart from package virtio
// because that one opens no files.
package eventkick

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kick is a virtio.Kick on a non-blocking eventfd: its Wait parks the goroutine in the Go runtime's poller, which holds
// no thread.
type Kick struct {
	file *os.File
}

// New returns a Kick with nothing pending. The caller closes it.
func New() (*Kick, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("queue notification: %w", os.NewSyscallError("eventfd2", err))
	}
	return &Kick{os.NewFile(uintptr(fd), "virtio-kick")}, nil
}

// Control calls f with the descriptor, to register it as an ioeventfd. f must not keep it.
func (k *Kick) Control(f func(fd int)) error {
	c, err := k.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { f(int(fd)) })
}

// Wait implements virtio.Kick.
func (k *Kick) Wait() error {
	var count [8]byte
	_, err := k.file.Read(count[:])
	return err
}

// Poke implements virtio.Kick. The only way it can fail, a counter at its maximum, leaves the wait ended all the same.
func (k *Kick) Poke() {
	one := [8]byte{1}
	_, _ = k.file.Write(one[:])
}

// Close implements virtio.Kick. It ends a Wait with an error.
func (k *Kick) Close() error { return k.file.Close() }
