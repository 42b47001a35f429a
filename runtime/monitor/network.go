package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/network"
	"github.com/govmm/govmm/runtime/oci"
	virtionet "github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/tap"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/vmm"
)

const (
	// maxCards is how many network interfaces a container may have at a time, fewer where it has many disks. Each is a slot of the VM,
	// empty at first, at which the guest's kernel looks when it boots.
	maxCards = 8
	// maxPairs bounds the pairs of queues of an interface: the guest sends by one a CPU, as long as that is of use.
	maxPairs = 4
)

// cardSlots is how many slots are kept for network devices in a VM with so many others: two more are for memory.
func cardSlots(others int) int { return max(0, min(maxCards, vmm.MaxDevices-others-2)) }

// holdTun keeps a way to open the node of TAPs, which is out of sight after the pivot. Only a container that has an interface needs it.
func (m *monitor) holdTun() {
	fd, err := unix.Open(tap.Node, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	m.tun = os.NewFile(uintptr(fd), tap.Node)
}

// openTun opens the node.
func (m *monitor) openTun() (*os.File, error) {
	if m.tun == nil {
		return nil, fmt.Errorf("%s: %w: load the host kernel's module tun", tap.Node, unix.ENOENT)
	}
	// The node itself and not what it is called: a name of the descriptor's.
	fd, err := unix.Openat(int(m.tree.ProcSelfFD.Fd()), strconv.Itoa(int(m.tun.Fd())), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: tap.Node, Err: err}
	}
	return os.NewFile(uintptr(fd), tap.Node), nil
}

// connect gives the guest the interfaces of the container's network namespace, and lets it follow what becomes of them. Engines
// put them there before start, some of them after create, and some while the container runs. Where that fails start may be tried again, and
// goes on with what has been given.
func (m *monitor) connect() error {
	if m.connected {
		return nil
	}
	err := m.giveNetwork()
	m.connected = err == nil
	return err
}

func (m *monitor) giveNetwork() error {
	if m.user != nil {
		return m.giveUserNetwork()
	}
	w, err := network.Watch()
	if err != nil {
		return err
	}
	if m.network == nil {
		m.network = network.NewManager(network.Config{Guest: m.guest, Insert: m.insertCard, Relay: (*relays)(m), Logger: m.log})
	}
	if err := m.network.Sync(); err != nil {
		_ = w.Close()
		return err
	}
	go func() {
		level := slog.LevelError // of the first time
		err := w.Follow(func() {
			if err := m.network.Sync(); err != nil {
				// The guest can bring this about as often as it likes.
				m.log.Log(context.Background(), level, "the guest does not follow its network", "error", err)
				level = slog.LevelDebug
			}
		})
		m.log.Debug("the network namespace is not watched any more", "error", err)
	}()
	return nil
}

// insertCard gives the guest a network device, whose frames go to and come from a new TAP.
func (m *monitor) insertCard(i *network.Interface) (network.Card, error) {
	limit, err := oci.Limit(m.cfg.Spec, oci.AnnotationNetworkLimit)
	if err != nil {
		return network.Card{}, err
	}
	file, err := m.openTun()
	if err != nil {
		return network.Card{}, err
	}
	link, err := tap.New(tap.Config{Name: network.TAPName, Pairs: min(m.vm.CPUs(), maxPairs), File: file})
	if err != nil {
		return network.Card{}, err
	}
	device, err := virtionet.New(virtionet.Config{
		Link: link, MAC: virtionet.MAC(i.MAC), MTU: uint16(min(i.MTU, 1<<16-1)),
		LimitRX: ratelimit.New(limit), LimitTX: ratelimit.New(limit), Logger: m.log,
	})
	if err == nil {
		err = m.vm.Attach(device)
	}
	if errors.Is(err, vmm.ErrNoSlot) {
		err = fmt.Errorf("a micro-VM has at most %d network interfaces, fewer with many disks: take one out of the network namespace", maxCards)
	}
	if err != nil {
		return network.Card{}, errors.Join(err, link.Close())
	}
	return network.Card{TAP: link.Name(), Remove: func() error { return errors.Join(m.vm.Detach(device), link.Close()) }}, nil
}
