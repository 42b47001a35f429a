package virtio

// Bits of the device status field (virtio 1.2 §2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// statusSteps are the bits that a driver sets, in the order in which it may (virtio 1.2 §3.1.1), each with those that
// must be there before it.
var statusSteps = [...]struct{ bit, after uint32 }{
	{StatusAcknowledge, 0},
	{StatusDriver, StatusAcknowledge},
	{StatusFeaturesOK, StatusAcknowledge | StatusDriver},
	{StatusDriverOK, StatusAcknowledge | StatusDriver | StatusFeaturesOK},
}

// writeStatus carries out the bits that are new in v. Bits never go away but by a reset, and one that is not due yet
// does not stick: the driver reads that.
func (m *MMIO) writeStatus(a *attachment, v uint32) {
	m.control.Lock()
	defer m.control.Unlock()
	if m.attached.Load() != a {
		return // it has been taken out meanwhile
	}
	if v == 0 {
		m.reset(a)
		return
	}
	if m.status.Load()&StatusFailed != 0 {
		return
	}
	for _, s := range statusSteps {
		old := m.status.Load()
		if v&s.bit == 0 || old&s.bit != 0 {
			continue
		}
		if old&s.after != s.after {
			m.complain("device status bit out of order", "status", old, "bit", s.bit)
			continue
		}
		m.takeStep(a, s.bit)
	}
	if v&StatusFailed != 0 {
		m.complain("driver gave up on the device")
		m.mu.Lock()
		m.live = false
		m.status.Or(StatusFailed)
		m.mu.Unlock()
	}
}

func (m *MMIO) takeStep(a *attachment, bit uint32) {
	switch bit {
	case StatusFeaturesOK:
		m.mu.Lock()
		got, ok := m.driverFeatures, m.featuresAcceptable(a)
		m.mu.Unlock()
		if !ok {
			m.complain("driver features are not a valid selection", "driver", got, "offered", a.offered)
			return
		}
		m.status.Or(bit)
	case StatusDriverOK:
		if m.status.Load()&StatusNeedsReset != 0 {
			return
		}
		// A goroutine that has lost its CPU may have notified the driver of before the reset. This one does not look for it.
		m.interrupt.Store(0)
		m.status.Or(bit)
		m.activate(a)
	default:
		m.status.Or(bit)
	}
}

// featuresAcceptable refuses bits that were not offered (virtio 1.2 §2.2.2), and legacy drivers.
func (m *MMIO) featuresAcceptable(a *attachment) bool {
	return !m.foreignBits && m.driverFeatures&^a.offered == 0 && m.driverFeatures&FeatureVersion1 != 0
}

// activate makes the device live after DRIVER_OK. Queues are looked at even without a notification: the driver may have
// filled them before.
func (m *MMIO) activate(a *attachment) {
	m.mu.Lock()
	features := m.driverFeatures
	queues := make([]*Queue, len(a.slots))
	for i, s := range a.slots {
		queues[i] = s.queue
	}
	m.mu.Unlock()
	if d, ok := a.dev.(Activator); ok {
		d.Activate(features, queues)
	}
	m.mu.Lock()
	m.live = m.status.Load()&(StatusNeedsReset|StatusFailed) == 0
	m.mu.Unlock()
	for i := range a.slots {
		a.kick(i)
	}
}

// fail says DEVICE_NEEDS_RESET (virtio 1.2 §2.1.2). The VM lives; the device is dead until the driver resets it.
func (m *MMIO) fail(err error, queue int) {
	m.complain("the device needs a reset", "queue", queue, "error", err)
	m.mu.Lock()
	m.live = false
	m.status.Or(StatusNeedsReset)
	m.mu.Unlock()
	m.configChanged()
}

// reset returns everything to the state after NewMMIO (virtio 1.2 §2.4). The caller holds m.control.
func (m *MMIO) reset(a *attachment) {
	m.mu.Lock()
	m.live = false
	m.mu.Unlock()
	for _, s := range a.slots {
		m.interruptServe(s)
	}
	for _, s := range a.slots {
		m.stopQueue(s)
	}
	a.dev.Reset()

	config := a.dev.Config()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range a.slots {
		s.cfg = QueueConfig{Size: s.maxSize}
	}
	m.featuresSel, m.driverFeatSel, m.queueSel, m.shmSel = 0, 0, 0, 0
	m.driverFeatures, m.foreignBits = 0, false
	m.generation, m.config = 0, config
	m.irq.Lock()
	defer m.irq.Unlock()
	m.interrupt.Store(0)
	m.status.Store(0)
}

// interruptServe cancels the Serve that runs on s, if any, and lets none start.
func (m *MMIO) interruptServe(s *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.ready = false
	if s.cancel != nil {
		s.cancel()
		s.parent, s.ctx, s.cancel = nil, nil, nil
	}
}

// stopQueue returns when no Serve runs on s, whose queue is dead then.
func (m *MMIO) stopQueue(s *slot) {
	m.interruptServe(s)
	s.run.Lock()
	defer s.run.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.queue != nil {
		s.queue.stop()
		s.queue = nil
	}
}

// writeQueueReady makes the selected queue ready, once it is known to be sound, or stops it (virtio 1.2 §4.2.2.2).
func (m *MMIO) writeQueueReady(a *attachment, v uint32) {
	m.control.Lock()
	defer m.control.Unlock()
	if m.attached.Load() != a {
		return
	}
	m.mu.Lock()
	i := m.queueSel
	s := m.selected(a)
	if s == nil || s.ready == (v&1 != 0) {
		m.mu.Unlock()
		return
	}
	if v&1 == 0 {
		m.mu.Unlock()
		m.stopQueue(s)
		return
	}
	if m.status.Load()&(StatusFeaturesOK|StatusDriverOK|StatusNeedsReset|StatusFailed) != StatusFeaturesOK {
		m.mu.Unlock()
		m.complain("queue made ready outside device set-up", "queue", i)
		return
	}
	q, err := NewQueue(m.mem, s.cfg, s.maxSize, m.driverFeatures, m.usedNotification)
	if err == nil {
		s.queue, s.ready = q, true
	}
	m.mu.Unlock()
	if err != nil {
		m.fail(err, int(i))
	}
}
