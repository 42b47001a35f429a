package devices

import (
	"context"
	"io"
	"sync"
	"time"
)

// SerialSize is the number of ports of a Serial.
const SerialSize = 8

// Registers of the 16550A and their bits (National Semiconductor PC16550D data sheet, table II).
const (
	regData   = 0 // RBR, THR; DLL with DLAB
	regIER    = 1 // DLM with DLAB
	regIIRFCR = 2
	regLCR    = 3
	regMCR    = 4
	regLSR    = 5
	regMSR    = 6
	regSCR    = 7

	ierRX    = 1 << 0
	ierTHRE  = 1 << 1
	ierLine  = 1 << 2
	ierModem = 1 << 3
	ierMask  = 0x0f

	iirNone    = 0x01
	iirModem   = 0x00
	iirTHRE    = 0x02
	iirRX      = 0x04
	iirLine    = 0x06
	iirTimeout = 0x0c
	iirFIFO    = 0xc0

	fcrEnable  = 1 << 0
	fcrClearRX = 1 << 1
	fcrClearTX = 1 << 2
	fcrTrigger = 0xc0

	lcrDLAB = 1 << 7

	mcrDTR  = 1 << 0
	mcrRTS  = 1 << 1
	mcrOut1 = 1 << 2
	mcrOut2 = 1 << 3 // on a PC it gates the interrupt
	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrDR      = 1 << 0
	lsrOverrun = 1 << 1
	lsrTHRE    = 1 << 5
	lsrTEMT    = 1 << 6

	msrCTS  = 1 << 4
	msrDSR  = 1 << 5
	msrRI   = 1 << 6
	msrDCD  = 1 << 7
	msrTERI = 1 << 2 // set by the trailing edge of RI only

	fifoSize = 16

	// outputLimit bounds what waits for a slow writer, in bytes.
	outputLimit = 16 << 10
)

// Serial is a 16550A UART without a line: bytes sent go to a writer, bytes received come from Feed.
//
// The writer is called by a goroutine that lives as long as there is output, never by a vCPU. While more than
// outputLimit bytes wait for it the transmitter looks busy, so a driver that asks loses nothing; what a guest sends
// nevertheless is lost, and so is what the writer fails to take.
type Serial struct {
	out io.Writer
	irq func(level bool)

	mu    sync.Mutex
	regs  serialRegs
	rx    []byte
	level bool // of the interrupt line, as last given to irq

	pending  []byte // output, oldest first
	spare    []byte // the drain goroutine's other buffer
	draining bool
	idle     chan struct{} // closed when draining ends; nil when not draining
	room     chan struct{}
}

// serialRegs is what a reset brings back to its zero value, but for dll.
type serialRegs struct {
	ier, fcr, lcr, mcr, scr, dll, dlm uint8
	overrun                           bool
	thre                              bool  // a THRE interrupt is due
	delta                             uint8 // low half of the MSR
}

// initialRegs is the state after power-on: 9600 baud, as a BIOS leaves it.
func initialRegs() serialRegs { return serialRegs{dll: 12} }

// NewSerial returns a UART that sends to out and sets its interrupt line by irq; both may be nil. irq is called with
// the UART's lock held, only when the level changes, and must not call back.
func NewSerial(out io.Writer, irq func(level bool)) *Serial {
	if out == nil {
		out = io.Discard
	}
	if irq == nil {
		irq = func(bool) {}
	}
	return &Serial{out: out, irq: irq, regs: initialRegs(), rx: make([]byte, 0, fifoSize), room: make(chan struct{}, 1)}
}

// Reset brings the UART back to its state after power-on. Output that was sent stays sent.
func (s *Serial) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regs = initialRegs()
	s.clearRX()
	s.update()
}

// Feed gives bytes to the receiver and returns how many its FIFO had room for. Room says when to try again.
func (s *Serial) Feed(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.regs.mcr&mcrLoop != 0 {
		return 0 // the line is disconnected
	}
	n := min(len(p), s.depth()-len(s.rx))
	n = max(n, 0) // the guest may have just made the FIFO shallower
	s.rx = append(s.rx, p[:n]...)
	s.update()
	return n
}

// Room receives a value when the receiver may have room again. It is meant for one reader.
func (s *Serial) Room() <-chan struct{} { return s.room }

// FeedAll gives all of p to the receiver, waiting for the guest to read, until ctx is done.
func (s *Serial) FeedAll(ctx context.Context, p []byte) error {
	for {
		p = p[s.Feed(p):]
		if len(p) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.room:
		}
	}
}

// Flush waits until the writer has taken all output, at most timeout; it says whether it did.
func (s *Serial) Flush(timeout time.Duration) bool {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle == nil {
		return true
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}

// Read implements Handler.
func (s *Serial) Read(off uint64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		p[i] = s.read(off + uint64(i))
	}
	s.update()
}

// Write implements Handler.
func (s *Serial) Write(off uint64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range p {
		s.write(off+uint64(i), v)
	}
	s.update()
}

func (s *Serial) read(reg uint64) uint8 {
	r := &s.regs
	dlab := r.lcr&lcrDLAB != 0
	switch {
	case reg == regData && dlab:
		return r.dll
	case reg == regIER && dlab:
		return r.dlm
	}
	switch reg {
	case regData:
		return s.receive()
	case regIER:
		return r.ier
	case regIIRFCR:
		iir := s.interrupt()
		if iir == iirTHRE {
			r.thre = false
		}
		if r.fcr&fcrEnable != 0 {
			iir |= iirFIFO
		}
		return iir
	case regLCR:
		return r.lcr
	case regMCR:
		return r.mcr
	case regLSR:
		lsr := s.lineStatus()
		r.overrun = false
		return lsr
	case regMSR:
		msr := s.modemLines() | r.delta
		r.delta = 0
		return msr
	case regSCR:
		return r.scr
	}
	return 0xff
}

func (s *Serial) write(reg uint64, v uint8) {
	r := &s.regs
	dlab := r.lcr&lcrDLAB != 0
	switch {
	case reg == regData && dlab:
		r.dll = v
		return
	case reg == regIER && dlab:
		r.dlm = v
		return
	}
	switch reg {
	case regData:
		s.send(v)
	case regIER:
		if v&ierTHRE&^r.ier != 0 {
			r.thre = s.transmitterReady() // enabling the interrupt of an empty transmitter raises it
		}
		r.ier = v & ierMask
	case regIIRFCR:
		s.writeFCR(v)
	case regLCR:
		r.lcr = v
	case regMCR:
		s.writeMCR(v & mcrMask)
	case regSCR:
		r.scr = v
	}
}

func (s *Serial) writeFCR(v uint8) {
	// Switching the FIFOs on or off empties them.
	if (v^s.regs.fcr)&fcrEnable != 0 || v&fcrEnable != 0 && v&fcrClearRX != 0 {
		s.clearRX()
	}
	if v&fcrEnable == 0 {
		v = 0
	}
	s.regs.fcr = v & (fcrEnable | fcrTrigger)
}

// writeMCR sets the modem control lines, which in loopback mode are the modem status lines as well.
func (s *Serial) writeMCR(v uint8) {
	before := s.modemLines()
	s.regs.mcr = v
	after := s.modemLines()
	delta := (before ^ after) >> 4
	if after&msrRI != 0 {
		delta &^= msrTERI
	}
	s.regs.delta |= delta
}

// modemLines is the upper half of the MSR: a peer that is always there, or in loopback mode our own lines.
func (s *Serial) modemLines() uint8 {
	if s.regs.mcr&mcrLoop == 0 {
		return msrDCD | msrDSR | msrCTS
	}
	var msr uint8
	for _, l := range [...]struct{ out, in uint8 }{
		{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD},
	} {
		if s.regs.mcr&l.out != 0 {
			msr |= l.in
		}
	}
	return msr
}

func (s *Serial) lineStatus() uint8 {
	var lsr uint8
	if s.transmitterReady() {
		lsr |= lsrTHRE | lsrTEMT
	}
	if len(s.rx) > 0 {
		lsr |= lsrDR
	}
	if s.regs.overrun {
		lsr |= lsrOverrun
	}
	return lsr
}

// interrupt returns the IIR's source: the one of highest priority that is enabled.
func (s *Serial) interrupt() uint8 {
	r := &s.regs
	switch {
	case r.ier&ierLine != 0 && r.overrun:
		return iirLine
	case r.ier&ierRX != 0 && len(s.rx) > 0:
		if r.fcr&fcrEnable != 0 && len(s.rx) < s.trigger() {
			return iirTimeout // no more will come before the guest looks
		}
		return iirRX
	case r.ier&ierTHRE != 0 && r.thre:
		return iirTHRE
	case r.ier&ierModem != 0 && r.delta != 0:
		return iirModem
	}
	return iirNone
}

func (s *Serial) trigger() int {
	return [...]int{1, 4, 8, 14}[s.regs.fcr>>6]
}

func (s *Serial) depth() int {
	if s.regs.fcr&fcrEnable != 0 {
		return fifoSize
	}
	return 1
}

// update sets the interrupt line after any change.
func (s *Serial) update() {
	level := s.regs.mcr&mcrOut2 != 0 && s.regs.mcr&mcrLoop == 0 && s.interrupt() != iirNone
	if level != s.level {
		s.level = level
		s.irq(level)
	}
}

func (s *Serial) receive() uint8 {
	if len(s.rx) == 0 {
		return 0
	}
	v := s.rx[0]
	s.rx = s.rx[:copy(s.rx, s.rx[1:])]
	s.signalRoom()
	return v
}

func (s *Serial) clearRX() {
	s.rx = s.rx[:0]
	s.signalRoom()
}

// signalRoom waits with waking the feeder until it can give a whole FIFO at once.
func (s *Serial) signalRoom() {
	if len(s.rx) > 0 {
		return
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
}

// send takes a byte from the guest. It is gone at once, so the transmitter is empty again.
func (s *Serial) send(v uint8) {
	if s.regs.mcr&mcrLoop != 0 {
		if len(s.rx) < s.depth() {
			s.rx = append(s.rx, v)
		} else {
			s.regs.overrun = true
		}
		s.regs.thre = true
		return
	}
	if len(s.pending) < outputLimit {
		s.pending = append(s.pending, v)
		if !s.draining {
			s.draining = true
			s.idle = make(chan struct{})
			go s.drain()
		}
	}
	s.regs.thre = s.transmitterReady()
}

// transmitterReady says whether a driver may send a FIFO's worth.
func (s *Serial) transmitterReady() bool {
	return s.regs.mcr&mcrLoop != 0 || len(s.pending)+fifoSize <= outputLimit
}

// drain writes until nothing is left. It owns the bytes it took; the lock is not held while the writer blocks.
func (s *Serial) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) > 0 {
		batch := s.pending
		s.pending = s.spare[:0]
		if len(batch)+fifoSize > outputLimit {
			s.regs.thre = true // the transmitter was busy and is not any more
			s.update()
		}
		s.mu.Unlock()
		_, _ = s.out.Write(batch) // a failing writer must not stop the guest
		s.mu.Lock()
		s.spare = batch
	}
	s.draining = false
	close(s.idle)
	s.idle = nil
}
