package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govmm/govmm/guestmem"
)

const (
	stateVersion = 1
	// maxDeviceState bounds what a state file can make us allocate, in bytes.
	maxDeviceState = 16 << 20
)

// savedTransport is the fixed part of a transport's state, little-endian; a savedQueue per queue and the device's own
// state follow it.
type savedTransport struct {
	Version        uint32
	DeviceID       uint32
	Status         uint32
	Interrupt      uint32
	Generation     uint32
	FeaturesSel    uint32
	DriverFeatSel  uint32
	QueueSel       uint32
	SHMSel         uint32
	Queues         uint32
	DeviceState    uint32 // bytes
	Foreign        uint32
	DriverFeatures uint64
}

type savedQueue struct {
	DescTable, AvailRing, UsedRing uint64
	Size, Ready                    uint16
	NextAvail, NextUsed, Signalled uint16
	Reserved                       [3]uint16
}

// MarshalBinary returns the state of the transport, its queues and the device. It waits for each Serve that runs; the
// caller has ended those that could take long, and the vCPUs, before. It fails when a device holds on to chains.
func (m *MMIO) MarshalBinary() ([]byte, error) {
	m.control.Lock()
	defer m.control.Unlock()
	a := m.attached.Load()
	if a == nil {
		return binary.Append(nil, binary.LittleEndian, savedTransport{Version: stateVersion})
	}
	for _, s := range a.slots {
		s.run.Lock()
		defer s.run.Unlock()
	}
	var own []byte
	if d, ok := a.dev.(StateSaver); ok {
		var err error
		if own, err = d.MarshalState(); err != nil {
			return nil, fmt.Errorf("virtio: state of %s: %w", m.cfg.Name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out, err := binary.Append(nil, binary.LittleEndian, m.save(a, len(own)))
	for i, s := range a.slots {
		if s.queue != nil && s.queue.InFlight() > 0 {
			return nil, fmt.Errorf("virtio: state of %s: %d requests of queue %d are in flight", m.cfg.Name,
				s.queue.InFlight(), i)
		}
		if err == nil {
			out, err = binary.Append(out, binary.LittleEndian, s.save())
		}
	}
	return append(out, own...), err
}

func (m *MMIO) save(a *attachment, own int) savedTransport {
	h := savedTransport{
		Version: stateVersion, DeviceID: uint32(a.dev.ID()), Status: m.status.Load(), Interrupt: m.interrupt.Load(),
		Generation: m.generation, FeaturesSel: m.featuresSel, DriverFeatSel: m.driverFeatSel, QueueSel: m.queueSel,
		SHMSel: m.shmSel, Queues: uint32(len(a.slots)), DeviceState: uint32(own), DriverFeatures: m.driverFeatures,
	}
	if m.foreignBits {
		h.Foreign = 1
	}
	return h
}

func (s *slot) save() savedQueue {
	q := savedQueue{
		DescTable: uint64(s.cfg.DescTable), AvailRing: uint64(s.cfg.AvailRing), UsedRing: uint64(s.cfg.UsedRing),
		Size: s.cfg.Size,
	}
	if s.queue != nil {
		st := s.queue.State()
		q.Ready, q.NextAvail, q.NextUsed, q.Signalled = 1, st.NextAvail, st.NextUsed, st.Signalled
	}
	return q
}

// UnmarshalBinary brings a transport in reset state, with the device that the state is of, to the state p. Nothing may
// serve its queues yet. On an error the transport is to be thrown away.
func (m *MMIO) UnmarshalBinary(p []byte) error {
	m.control.Lock()
	defer m.control.Unlock()
	if err := m.restore(p); err != nil {
		return fmt.Errorf("virtio: state of %s: %w", m.cfg.Name, err)
	}
	return nil
}

func (m *MMIO) restore(p []byte) error {
	var h savedTransport
	r := bytes.NewReader(p)
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return err
	}
	a := m.attached.Load()
	if a == nil {
		if h != (savedTransport{Version: stateVersion}) || r.Len() != 0 {
			return errors.New("the slot is spare, the state is not")
		}
		return nil
	}
	if err := m.checkSaved(a, &h); err != nil {
		return err
	}
	saved := make([]savedQueue, len(a.slots))
	if err := binary.Read(r, binary.LittleEndian, saved); err != nil {
		return err
	}
	own := p[len(p)-r.Len():]
	if uint64(len(own)) != uint64(h.DeviceState) {
		return fmt.Errorf("%d bytes of device state, the header says %d", len(own), h.DeviceState)
	}
	if d, ok := a.dev.(StateSaver); ok {
		if err := d.UnmarshalState(own); err != nil {
			return err
		}
	} else if len(own) != 0 {
		return errors.New("device state for a device that has none")
	}
	return m.adopt(a, &h, saved)
}

// checkSaved refuses what no driver could have brought about.
func (m *MMIO) checkSaved(a *attachment, h *savedTransport) error {
	const known = StatusAcknowledge | StatusDriver | StatusFeaturesOK | StatusDriverOK | StatusNeedsReset | StatusFailed
	if m.status.Load() != 0 {
		return errors.New("the transport is in use")
	}
	switch {
	case h.Version != stateVersion:
		return fmt.Errorf("version %d, want %d", h.Version, stateVersion)
	case DeviceID(h.DeviceID) != a.dev.ID():
		return fmt.Errorf("device type %d, want %d", h.DeviceID, a.dev.ID())
	case int64(h.Queues) != int64(len(a.slots)):
		return fmt.Errorf("%d queues, want %d", h.Queues, len(a.slots))
	case h.DeviceState > maxDeviceState:
		return fmt.Errorf("device state of %d bytes", h.DeviceState)
	case h.Status&^known != 0 || h.Interrupt&^(InterruptUsed|InterruptConfig) != 0 || h.Foreign > 1:
		return fmt.Errorf("status %#x, interrupt status %#x", h.Status, h.Interrupt)
	}
	for _, s := range statusSteps {
		if h.Status&s.bit != 0 && h.Status&s.after != s.after {
			return fmt.Errorf("status %#x", h.Status)
		}
	}
	if h.Status&StatusFeaturesOK != 0 && (h.DriverFeatures&^a.offered != 0 || h.DriverFeatures&FeatureVersion1 == 0 ||
		h.Foreign != 0) {
		return fmt.Errorf("features %#x, offered are %#x", h.DriverFeatures, a.offered)
	}
	return nil
}

func (m *MMIO) adopt(a *attachment, h *savedTransport, saved []savedQueue) error {
	m.mu.Lock()
	m.generation, m.featuresSel, m.driverFeatSel = h.Generation, h.FeaturesSel, h.DriverFeatSel
	m.queueSel, m.shmSel, m.driverFeatures, m.foreignBits = h.QueueSel, h.SHMSel, h.DriverFeatures, h.Foreign == 1
	m.config = a.dev.Config()
	m.interrupt.Store(h.Interrupt)
	m.status.Store(h.Status)
	for i, s := range a.slots {
		if err := m.adoptQueue(s, &saved[i]); err != nil {
			m.mu.Unlock()
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	m.mu.Unlock()
	if h.Status&StatusDriverOK != 0 {
		m.activate(a)
	}
	if h.Interrupt != 0 {
		// An edge may have been under way. One too many does no harm.
		m.cfg.Interrupt()
	}
	return nil
}

func (m *MMIO) adoptQueue(s *slot, v *savedQueue) error {
	s.cfg = QueueConfig{
		Size: v.Size, DescTable: guestmem.Addr(v.DescTable), AvailRing: guestmem.Addr(v.AvailRing),
		UsedRing: guestmem.Addr(v.UsedRing),
	}
	idle := savedQueue{DescTable: v.DescTable, AvailRing: v.AvailRing, UsedRing: v.UsedRing, Size: v.Size}
	switch {
	case v.Ready > 1 || v.Reserved != [3]uint16{}:
		return fmt.Errorf("ready is %d, what is reserved % x", v.Ready, v.Reserved)
	case v.Ready == 0 && *v != idle:
		return errors.New("indices of a queue that is not ready")
	case v.Ready == 0:
		return nil
	}
	if m.status.Load()&StatusFeaturesOK == 0 {
		return errors.New("ready before FEATURES_OK")
	}
	st := QueueState{s.cfg, v.NextAvail, v.NextUsed, v.Signalled}
	q, err := RestoreQueue(m.mem, st, s.maxSize, m.driverFeatures, m.usedNotification)
	if err != nil {
		return err
	}
	s.queue, s.ready = q, true
	return nil
}
