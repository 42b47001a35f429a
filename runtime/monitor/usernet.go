package monitor

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/guestkernel"
	"github.com/govmm/govmm/runtime/network"
	"github.com/govmm/govmm/runtime/oci"
	virtionet "github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/user"
	"github.com/govmm/govmm/virtio/ratelimit"
)

// startUserNetwork starts the process of a network in user mode, if the container is to have one: in the caller's network namespace, which
// is where the guest's connections come from, and as long as the host's files are there.
func (m *monitor) startUserNetwork() error {
	publish, ok, err := oci.UserNetwork(m.cfg.Spec)
	if err != nil || !ok {
		return err
	}
	unix.CloseOnExec(CallerFD)
	caller := os.NewFile(CallerFD, "network namespace")
	defer caller.Close()
	assets, err := guestkernel.Open()
	if err != nil {
		return fmt.Errorf("user-mode network: %w", err)
	}
	defer assets.Close()
	m.user, err = user.Start(user.Options{Program: assets.Net, Publish: publish, Namespace: caller, ResolvConf: "/etc/resolv.conf"})
	return err
}

// giveUserNetwork gives the guest its interface of it, with addresses and routes.
func (m *monitor) giveUserNetwork() error {
	i := network.Interface{Name: "eth0", MTU: user.MTU, QueueLen: 1000, MAC: make([]byte, 6)}
	_, _ = rand.Read(i.MAC)    // never fails
	i.MAC[0] = i.MAC[0]&^1 | 2 // one station's, administered locally
	err := network.NewManager(network.Config{Guest: m.guest, Insert: m.insertUserCard, Logger: m.log}).Give(network.Fixed{
		Interface: i, Addresses: []netip.Prefix{user.Guest, user.Guest6}, Gateways: []netip.Addr{user.Gateway, user.Gateway6},
	})
	if errors.Is(err, network.ErrNotEmpty) {
		return fmt.Errorf("annotation %s: %w: it is for containers without a network of an engine's, such as --network none", oci.AnnotationNetwork, err)
	}
	return err
}

func (m *monitor) insertUserCard(i *network.Interface) (network.Card, error) {
	limit, err := oci.Limit(m.cfg.Spec, oci.AnnotationNetworkLimit)
	if err != nil {
		return network.Card{}, err
	}
	device, err := virtionet.New(virtionet.Config{
		Link: m.user, MAC: virtionet.MAC(i.MAC), MTU: user.MTU, LimitRX: ratelimit.New(limit), LimitTX: ratelimit.New(limit), Logger: m.log,
	})
	if err == nil {
		err = m.vm.Attach(device)
	}
	return network.Card{Remove: func() error { return m.vm.Detach(device) }}, err
}
