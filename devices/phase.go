package devices

// PhaseSize is the number of ports of a Phase.
const PhaseSize = 1

// Phase is a port on which a guest under measurement says how far it got, a byte at a time. It has no state; machines
// outside of measurements do not have one.
type Phase struct {
	report func(phase byte)
}

// NewPhase returns a port that calls report on the vCPU's thread. Whoever wants to know when takes the time there.
func NewPhase(report func(phase byte)) *Phase { return &Phase{report} }

// Read implements Handler: there is nothing to read.
func (d *Phase) Read(_ uint64, p []byte) { fillOnes(p) }

// Write implements Handler.
func (d *Phase) Write(_ uint64, p []byte) {
	for _, b := range p {
		d.report(b)
	}
}
