package virtio

// NotifyUsed tells the driver of used buffers, as a queue does.
func NotifyUsed(m *MMIO) { m.usedNotification() }
