package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govmm/govmm/virtio"
)

// Serve implements virtio.Device. Where the control queue is depends on what was negotiated (virtio 1.2 §5.1.2).
func (d *Device) Serve(ctx context.Context, i int, q *virtio.Queue) error {
	pairs := 1
	if q.Features()&FeatureMultiQueue != 0 {
		pairs = d.link.Pairs()
	}
	switch {
	case i == 2*pairs && q.Features()&FeatureCtrlQueue != 0:
		return d.control(ctx, q)
	case i >= 2*pairs:
		return nil // a queue that this driver has no use for
	case i%2 == 0:
		return d.receive(ctx, i/2, q)
	}
	return d.transmit(ctx, i/2, q)
}

// Activate implements virtio.Activator. A driver that has not said anything else gets every frame, with all that it can
// take of offloads, on one pair.
func (d *Device) Activate(features uint64, _ []*virtio.Queue) {
	if features &= d.features; !d.set.active || d.set.features != features {
		d.set = settings{active: true, features: features, pairs: 1, offloads: features & guestOffloads, promiscuous: true}
	}
	d.apply()
}

// Reset implements virtio.Device. What waits in the link stays there for the next driver.
func (d *Device) Reset() {
	for i := range d.receivers {
		d.receivers[i].reset()
		d.senders[i].reset()
	}
	d.mu.Lock()
	d.mac, d.announce = d.cfg.MAC, false
	d.mu.Unlock()
	if d.set.active {
		d.set.offloads, d.set.pairs, d.set.promiscuous = 0, 1, true
		d.apply()
		d.set = settings{}
	}
}

// apply brings the link to what is set. An error leaves the guest with a link that does more for it than it wants, or less
// than it can: it works.
func (d *Device) apply() {
	err := errors.Join(d.link.SetOffloads(consistent(d.set.offloads)), d.applyFilter())
	if err != nil {
		d.complain("the link could not be set up", err)
	}
	d.pairs.Store(int32(d.set.pairs))
}

const stateVersion = 1

// savedState is the fixed part of the state; the two halves of the filter table follow.
type savedState struct {
	Version, Active, Announce                             uint8
	Promiscuous, AllMulticast, ManyUnicast, ManyMulticast uint8
	MAC                                                   MAC
	Pairs, Unicast, Multicast                             uint16
	Features, Offloads                                    uint64
}

// MarshalState implements virtio.StateSaver.
func (d *Device) MarshalState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.set
	h := savedState{
		Version: stateVersion, Active: bit(s.active), Announce: bit(d.announce), Promiscuous: bit(s.promiscuous),
		AllMulticast: bit(s.allMulticast), ManyUnicast: bit(s.manyUnicast), ManyMulticast: bit(s.manyMulticast), MAC: d.mac,
		Pairs: s.pairs, Unicast: uint16(len(s.unicast)), Multicast: uint16(len(s.multicast)), Features: s.features,
		Offloads: s.offloads,
	}
	var p []byte
	for _, v := range []any{h, s.unicast, s.multicast} {
		var err error
		if p, err = binary.Append(p, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// UnmarshalState implements virtio.StateSaver.
func (d *Device) UnmarshalState(p []byte) error {
	var h savedState
	r := bytes.NewReader(p)
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return fmt.Errorf("network device: state: %w", err)
	}
	if err := d.checkSaved(&h, r.Len()); err != nil {
		return fmt.Errorf("network device: state: %w", err)
	}
	d.set = settings{
		active: h.Active == 1, features: h.Features, pairs: h.Pairs, offloads: h.Offloads, promiscuous: h.Promiscuous == 1,
		allMulticast: h.AllMulticast == 1, manyUnicast: h.ManyUnicast == 1, manyMulticast: h.ManyMulticast == 1,
		unicast: make([]MAC, h.Unicast), multicast: make([]MAC, h.Multicast),
	}
	for _, list := range [][]MAC{d.set.unicast, d.set.multicast} {
		_ = binary.Read(r, binary.LittleEndian, list) // its length was checked
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mac, d.announce = h.MAC, h.Announce == 1
	return nil
}

// checkSaved refuses what no driver could have brought about; rest is the number of bytes after h.
func (d *Device) checkSaved(h *savedState, rest int) error {
	flags := []uint8{h.Active, h.Announce, h.Promiscuous, h.AllMulticast, h.ManyUnicast, h.ManyMulticast}
	for _, f := range flags {
		if f > 1 {
			return errors.New("a flag that is neither 0 nor 1")
		}
	}
	most := d.link.Pairs()
	if h.Features&FeatureMultiQueue == 0 {
		most = 1
	}
	idle := savedState{Version: stateVersion, MAC: h.MAC, Announce: h.Announce}
	switch {
	case h.Version != stateVersion:
		return fmt.Errorf("version %d, want %d", h.Version, stateVersion)
	case !h.MAC.unicast():
		return fmt.Errorf("address %v", h.MAC)
	case h.Active == 0 && *h != idle:
		return errors.New("settings without a driver")
	case h.Features&^d.features != 0 || h.Offloads&^(h.Features&guestOffloads) != 0:
		return fmt.Errorf("features %#x, offloads %#x, offered are %#x", h.Features, h.Offloads, d.features)
	case h.Active == 1 && (h.Pairs == 0 || int(h.Pairs) > most):
		return fmt.Errorf("%d pairs of queues in use, this device has %d", h.Pairs, most)
	case h.Unicast > maxAddresses || h.Multicast > maxAddresses ||
		rest != (int(h.Unicast)+int(h.Multicast))*len(MAC{}):
		return fmt.Errorf("%d and %d addresses in %d bytes", h.Unicast, h.Multicast, rest)
	}
	return nil
}
