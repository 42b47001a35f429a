package devices

// SleepSize is the number of ports of a Sleep.
const SleepSize = 2

// Sleep control register of hardware-reduced ACPI (ACPI 6.5 §4.8.3.7).
const (
	slpTypeShift = 2
	slpTypeMask  = 7
	slpEnable    = 1 << 5
	slpTypeOff   = 5 // what the DSDT of package boot names in _S5
)

// Sleep is the sleep control and status register pair of hardware-reduced ACPI: the power switch of guests with ACPI.
// Power-off is its only sleep state, so it has no state of its own.
type Sleep struct {
	off func()
}

// NewSleep returns a register pair that calls off, on the vCPU's thread, when the guest powers itself off.
func NewSleep(off func()) *Sleep { return &Sleep{off} }

// Read implements Handler: both registers read as zero, "not woken from sleep".
func (d *Sleep) Read(_ uint64, p []byte) { clear(p) }

// Write implements Handler.
func (d *Sleep) Write(off uint64, p []byte) {
	if off != 0 || len(p) != 1 || d.off == nil {
		return
	}
	if p[0]&slpEnable != 0 && p[0]>>slpTypeShift&slpTypeMask == slpTypeOff {
		d.off()
	}
}
