package tap

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

// Offloads of TUNSETOFFLOAD (linux/if_tun.h).
const (
	tunCSum = 0x01
	tunTSO4 = 0x02
	tunTSO6 = 0x04
	tunECN  = 0x08
	tunUFO  = 0x10
	tunUSO  = 0x20 | 0x40 // for IPv4 and IPv6: the kernel takes both or none
)

// flags are what an interface of ours is: Ethernet, no header but virtio_net_hdr.
const flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// attach makes fd the queue of the interface, which it makes if there is none.
func (t *TAP) attach(fd int) error {
	ifr, err := unix.NewIfreq(t.name)
	if err != nil {
		return fmt.Errorf("a name of at most %d bytes is needed", unix.IFNAMSIZ-1)
	}
	if unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr) == nil {
		if got := ifr.Uint16(); got&flags != flags {
			return fmt.Errorf("the open file belongs to %s, an interface with flags %#x, %#x are needed", ifr.Name(), got, flags)
		}
	} else if err := setInterface(fd, ifr); err != nil {
		return t.explain(err)
	}
	t.name = ifr.Name()
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, net.HeaderSize); err != nil {
		return os.NewSyscallError("TUNSETVNETHDRSZ", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return os.NewSyscallError("TUNSETVNETLE", err)
	}
	return nil
}

// setInterface makes or opens the interface, also one that somebody made for several queues.
func setInterface(fd int, ifr *unix.Ifreq) error {
	ifr.SetUint16(flags)
	err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if errors.Is(err, unix.EINVAL) {
		ifr.SetUint16(flags | unix.IFF_MULTI_QUEUE)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	return err
}

// explain says what an error of TUNSETIFF means.
func (t *TAP) explain(err error) error {
	name, inner := t.name, os.NewSyscallError("TUNSETIFF", err)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: making an interface takes CAP_NET_ADMIN, using one takes that or being its owner: "+
			"ip tuntap add dev %s mode tap user $USER", inner, name)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program uses the interface", inner)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: the interface has no more queues", inner)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: is it an interface of mode tap? Make it with: ip tuntap add dev %s mode tap", inner, name)
	}
	return inner
}

// offloads are the features that are one of TUNSETOFFLOAD's each, in the order in which they need each other.
var offloads = []struct {
	tun, with int    // with what it needs
	guest     uint64 // what the driver can take then
	host      uint64 // what the kernel takes from it, if it knows this one
}{
	{tunCSum, 0, net.FeatureGuestCSum, 0},
	{tunTSO4, tunCSum, net.FeatureGuestTSO4, 0},
	{tunTSO6, tunCSum, net.FeatureGuestTSO6, 0},
	{tunECN, tunCSum | tunTSO4, net.FeatureGuestECN, 0},
	{tunUFO, tunCSum, net.FeatureGuestUFO, net.FeatureHostUFO},
	{tunUSO, tunCSum, net.FeatureGuestUSO4 | net.FeatureGuestUSO6, net.FeatureHostUSO},
}

// probe asks the kernel which offloads it can do: all at once, as each question takes a lock that all interfaces share.
func (t *TAP) probe() uint64 {
	all := 0
	for _, o := range offloads {
		all |= o.tun
	}
	hasAll := t.setOffload(all) == nil
	// What the driver sends is up to the kernel's parser of virtio_net_hdr, which has known these for long.
	f := net.FeatureCSum | net.FeatureHostTSO4 | net.FeatureHostTSO6 | net.FeatureHostECN
	for _, o := range offloads {
		if hasAll || t.setOffload(o.tun|o.with) == nil {
			f |= o.guest | o.host
		}
	}
	return f
}

func (t *TAP) setOffload(tun int) error {
	return control(t.queues[0].File(), func(fd int) error {
		return os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tun))
	})
}

// SetOffloads implements net.Link.
func (t *TAP) SetOffloads(features uint64) error {
	tun := 0
	for _, o := range offloads {
		if features&o.guest == o.guest {
			tun |= o.tun
		}
	}
	return t.setOffload(tun)
}

// MTU returns the MTU of an interface in the network namespace of the calling thread.
func MTU(name string) (uint16, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("MTU of %s: %w", name, os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFMTU, ifr)
	}
	if err != nil {
		return 0, fmt.Errorf("MTU of %s: %w", name, os.NewSyscallError("SIOCGIFMTU", err))
	}
	return uint16(min(ifr.Uint32(), 65535)), nil
}
