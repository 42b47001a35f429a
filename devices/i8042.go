package devices

import (
	"fmt"
	"sync"
)

// I8042Size is the number of ports of an I8042: data at 0, command and status at 4; those between are not its.
const I8042Size = 5

// Commands and bits of the keyboard controller (IBM PS/2 Hardware Interface Technical Reference).
const (
	kbdData    = 0
	kbdCommand = 4

	kbdReadCTR     = 0x20
	kbdWriteCTR    = 0x60
	kbdAuxDisable  = 0xa7
	kbdAuxEnable   = 0xa8
	kbdAuxTest     = 0xa9
	kbdSelfTest    = 0xaa
	kbdPortTest    = 0xab
	kbdDisable     = 0xad
	kbdEnable      = 0xae
	kbdReadOutput  = 0xd0
	kbdWriteOutput = 0xd1
	kbdWriteOBF    = 0xd2
	kbdAuxLoop     = 0xd3
	kbdAuxSend     = 0xd4
	kbdPulse       = 0xf0 // and above: pulse the output lines whose bits are 0

	kbdResetLine = 1 << 0

	kbdStatusOBF    = 1 << 0
	kbdStatusSystem = 1 << 2
	kbdStatusUnlock = 1 << 4

	kbdCTRInitial = 0x30 // both ports disabled, no interrupts
	kbdCTRNoKbd   = 1 << 4
	kbdCTRNoAux   = 1 << 5
	kbdOutputA20  = 0x03 // reset line high, A20 open

	kbdTestOK      = 0x55
	kbdLineStuck   = 0x01 // port test: the clock line is stuck low, that is, nothing is connected
	kbdResendReply = 0xfe // a device's answer to a byte that it did not understand
)

// I8042 is a keyboard controller without a keyboard. It is there for its reset line, which Linux pulses with reboot=k
// and which ACPI's reset register names. A driver that probes finds no device on either port, at once: every command
// that has an answer is answered, so nothing waits for a time-out.
type I8042 struct {
	reset func()

	mu    sync.Mutex
	state i8042State
}

type i8042State struct {
	ctr, output uint8
	command     uint8 // waits for its parameter; 0: none
	data        uint8
	full        bool
}

func initialI8042() i8042State { return i8042State{ctr: kbdCTRInitial, output: kbdOutputA20} }

// NewI8042 returns a controller that calls reset, on the vCPU's thread, whenever the guest pulses the reset line.
func NewI8042(reset func()) *I8042 {
	return &I8042{reset: reset, state: initialI8042()}
}

// Reset brings the controller back to its state after power-on.
func (k *I8042) Reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = initialI8042()
}

// Read implements Handler.
func (k *I8042) Read(off uint64, p []byte) {
	fillOnes(p)
	if len(p) != 1 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.state
	switch off {
	case kbdData:
		p[0] = s.data
		s.full = false
	case kbdCommand:
		p[0] = kbdStatusSystem | kbdStatusUnlock
		if s.full {
			p[0] |= kbdStatusOBF
		}
	}
}

// Write implements Handler.
func (k *I8042) Write(off uint64, p []byte) {
	if len(p) != 1 {
		return
	}
	k.mu.Lock()
	reset := false
	switch off {
	case kbdData:
		reset = k.state.parameter(p[0])
	case kbdCommand:
		reset = k.state.start(p[0])
	}
	k.mu.Unlock()
	if reset && k.reset != nil {
		k.reset()
	}
}

func (s *i8042State) reply(v uint8) { s.data, s.full = v, true }

// start begins a command; true: reset.
func (s *i8042State) start(c uint8) bool {
	s.command = 0
	switch {
	case c == kbdReadCTR:
		s.reply(s.ctr)
	case c == kbdWriteCTR, c == kbdWriteOutput, c == kbdWriteOBF, c == kbdAuxLoop, c == kbdAuxSend:
		s.command = c
	case c == kbdAuxDisable:
		s.ctr |= kbdCTRNoAux
	case c == kbdAuxEnable:
		s.ctr &^= kbdCTRNoAux
	case c == kbdDisable:
		s.ctr |= kbdCTRNoKbd
	case c == kbdEnable:
		s.ctr &^= kbdCTRNoKbd
	case c == kbdAuxTest, c == kbdPortTest:
		s.reply(kbdLineStuck)
	case c == kbdSelfTest:
		s.reply(kbdTestOK)
	case c == kbdReadOutput:
		s.reply(s.output)
	case c >= kbdPulse:
		return c&kbdResetLine == 0
	}
	return false
}

// parameter takes a byte from the data port; true: reset.
func (s *i8042State) parameter(v uint8) bool {
	c := s.command
	s.command = 0
	switch c {
	case kbdWriteCTR:
		s.ctr = v
	case kbdWriteOutput:
		s.output = v
		return v&kbdResetLine == 0
	case kbdWriteOBF, kbdAuxLoop:
		s.reply(v) // without the mark of the auxiliary port, so a driver sees that there is none
	default:
		s.reply(kbdResendReply) // there is nobody to take it
	}
	return false
}

const (
	i8042Version = 1
	i8042Saved   = 6
)

// MarshalBinary returns the guest-visible state.
func (k *I8042) MarshalBinary() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.state
	b := []byte{i8042Version, s.ctr, s.output, s.command, s.data, 0}
	if s.full {
		b[5] = 1
	}
	return b, nil
}

// UnmarshalBinary restores a state that MarshalBinary returned.
func (k *I8042) UnmarshalBinary(p []byte) error {
	if len(p) != i8042Saved || p[0] != i8042Version {
		return fmt.Errorf("i8042 state: not of version %d", i8042Version)
	}
	switch p[3] {
	case 0, kbdWriteCTR, kbdWriteOutput, kbdWriteOBF, kbdAuxLoop, kbdAuxSend:
	default:
		return fmt.Errorf("i8042 state: command %#x takes no parameter", p[3])
	}
	if p[5] > 1 {
		return fmt.Errorf("i8042 state: bad flag %#x", p[5])
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = i8042State{ctr: p[1], output: p[2], command: p[3], data: p[4], full: p[5] == 1}
	return nil
}
