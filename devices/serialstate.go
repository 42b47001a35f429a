package devices

import (
	"fmt"
)

// serialVersion is the first byte of a saved Serial; it changes with the layout.
const (
	serialVersion = 1
	serialFixed   = 12 // bytes before the received ones
)

const (
	savedOverrun = 1 << 0
	savedTHRE    = 1 << 1
)

// MarshalBinary returns the guest-visible state. Output that still waits for the writer is not part of it: it belongs
// to this process, see Flush.
func (s *Serial) MarshalBinary() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.regs
	var flags uint8
	if r.overrun {
		flags |= savedOverrun
	}
	if r.thre {
		flags |= savedTHRE
	}
	b := []byte{serialVersion, r.ier, r.fcr, r.lcr, r.mcr, r.scr, r.dll, r.dlm, r.delta, flags, 0, uint8(len(s.rx))}
	return append(b, s.rx...), nil
}

// UnmarshalBinary restores a state that MarshalBinary returned, and sets the interrupt line to it. A state that no
// UART can be in is refused and changes nothing.
func (s *Serial) UnmarshalBinary(p []byte) error {
	if len(p) < serialFixed || p[0] != serialVersion {
		return fmt.Errorf("serial state: not of version %d", serialVersion)
	}
	r := serialRegs{ier: p[1], fcr: p[2], lcr: p[3], mcr: p[4], scr: p[5], dll: p[6], dlm: p[7], delta: p[8],
		overrun: p[9]&savedOverrun != 0, thre: p[9]&savedTHRE != 0}
	rx := p[serialFixed:]
	switch {
	case r.ier&^ierMask != 0, r.mcr&^mcrMask != 0, r.fcr&^(fcrEnable|fcrTrigger) != 0, r.fcr != 0 && r.fcr&fcrEnable == 0,
		r.delta&0xf0 != 0, p[9]&^(savedOverrun|savedTHRE) != 0, p[10] != 0:
		return fmt.Errorf("serial state: a register has a reserved bit: % x", p[:serialFixed])
	case len(rx) != int(p[11]) || len(rx) > fifoSize:
		return fmt.Errorf("serial state: %d received bytes, %d announced, at most %d possible", len(rx), p[11], fifoSize)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regs = r
	s.rx = append(s.rx[:0], rx...)
	s.update()
	return nil
}
