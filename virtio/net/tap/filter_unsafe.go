package tap

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

const filterAllMulticast = 1 // TUN_FLT_ALLMULTI

// SetFilter implements net.Filterer with the kernel's own filter, which drops frames before they are queued. It compares
// the first eight addresses and hashes groups beyond; an address of one station beyond makes it let everything pass.
func (t *TAP) SetFilter(f net.Filter) error {
	p := make([]byte, 4, 4+6*len(f.Addresses)) // struct tun_filter
	if !f.Promiscuous {
		binary.NativeEndian.PutUint16(p[2:], uint16(len(f.Addresses)))
		for _, a := range f.Addresses {
			p = append(p, a[:]...)
		}
	}
	if f.AllMulticast {
		binary.NativeEndian.PutUint16(p, filterAllMulticast)
	}
	return control(t.queues[0].File(), func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETTXFILTER, uintptr(unsafe.Pointer(&p[0])))
		if errno != 0 {
			return os.NewSyscallError("TUNSETTXFILTER", errno)
		}
		return nil
	})
}

var _ net.Filterer = (*TAP)(nil)
