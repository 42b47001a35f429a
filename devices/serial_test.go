package devices

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// line records the level of an interrupt line.
type line struct {
	level bool
	rises int
}

func (l *line) set(level bool) {
	if level && !l.level {
		l.rises++
	}
	l.level = level
}

// output is a writer that can be read while it is written to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func in(s *Serial, reg uint64) uint8 {
	p := []byte{0}
	s.Read(reg, p)
	return p[0]
}

func out(s *Serial, reg uint64, v ...uint8) {
	for _, b := range v {
		s.Write(reg, []byte{b})
	}
}

// enabled returns a UART as a driver sets it up, with the given interrupts.
func enabled(o *output, ier uint8) (*Serial, *line) {
	l := &line{}
	s := NewSerial(o, l.set)
	out(s, regIIRFCR, fcrEnable|fcrClearRX|fcrClearTX)
	out(s, regLCR, 3)
	out(s, regMCR, mcrDTR|mcrRTS|mcrOut2)
	out(s, regIER, ier)
	return s, l
}

func TestSerialOutput(t *testing.T) {
	o := &output{}
	s, _ := enabled(o, 0)
	want := strings.Repeat("HELLO FROM GUEST INIT\r\n", 500)
	for _, c := range []byte(want) {
		for in(s, regLSR)&lsrTHRE == 0 {
			time.Sleep(time.Millisecond)
		}
		out(s, regData, c)
	}
	if !s.Flush(10 * time.Second) {
		t.Fatal("the output does not drain")
	}
	if o.String() != want {
		t.Errorf("%d bytes arrived, want %d, or others", len(o.String()), len(want))
	}
}

// Linux's probe (drivers/tty/serial/8250): scratch, interrupt enable bits, loopback, FIFO kind.
func TestSerialLooksLikeA16550A(t *testing.T) {
	s := NewSerial(nil, nil)
	out(s, regIER, 0)
	if v := in(s, regIER); v != 0 {
		t.Errorf("IER %#x after 0", v)
	}
	out(s, regIER, 0xff)
	if v := in(s, regIER); v != 0x0f {
		t.Errorf("IER %#x after 0xff, want 0xf", v)
	}
	out(s, regIER, 0)
	out(s, regMCR, mcrLoop|mcrOut2|mcrRTS)
	if v := in(s, regMSR); v&0xf0 != msrDCD|msrCTS {
		t.Errorf("MSR %#x in loopback, want DCD and CTS", v)
	}
	out(s, regMCR, 0)
	for _, c := range []struct{ fcr, want uint8 }{{0, 0x01}, {fcrEnable, 0xc1}, {0, 0x01}, {0x20 | fcrEnable, 0xc1}} {
		out(s, regIIRFCR, c.fcr)
		if v := in(s, regIIRFCR); v != c.want {
			t.Errorf("IIR %#x after FCR %#x, want %#x", v, c.fcr, c.want)
		}
	}
	out(s, regSCR, 0xa5)
	out(s, regLCR, lcrDLAB|3)
	out(s, regData, 1)
	out(s, regIER, 2)
	if a, b := in(s, regData), in(s, regIER); a != 1 || b != 2 {
		t.Errorf("divisor %#x %#x, want 1 2", a, b)
	}
	out(s, regLCR, 3)
	if a, b := in(s, regSCR), in(s, regIER); a != 0xa5 || b != 0 {
		t.Errorf("SCR %#x, IER %#x, want 0xa5 and 0: the divisor latch leaked", a, b)
	}
	if v := in(s, regMSR); v&0xf0 != msrDCD|msrDSR|msrCTS {
		t.Errorf("MSR %#x: no peer", v)
	}
}

func TestSerialTransmitInterrupt(t *testing.T) {
	o := &output{}
	s, l := enabled(o, 0)
	if l.level {
		t.Fatal("an interrupt before any was enabled")
	}
	out(s, regIER, ierTHRE)
	if !l.level || in(s, regIIRFCR) != iirFIFO|iirTHRE {
		t.Fatal("enabling the interrupt of an empty transmitter does not raise it")
	}
	if l.level || in(s, regIIRFCR) != iirFIFO|iirNone {
		t.Fatal("reading IIR does not take the interrupt back")
	}
	out(s, regData, []byte("sixteen bytes...")...)
	if !l.level || l.rises != 2 {
		t.Errorf("level %v after %d rises, want one more rise", l.level, l.rises)
	}
	out(s, regMCR, 0)
	if l.level {
		t.Error("OUT2 does not gate the interrupt")
	}
}

func TestSerialReceive(t *testing.T) {
	s, l := enabled(&output{}, ierRX)
	if n := s.Feed([]byte("abc")); n != 3 || !l.level {
		t.Fatalf("%d bytes fed, level %v", n, l.level)
	}
	if v := in(s, regIIRFCR); v != iirFIFO|iirRX {
		t.Errorf("IIR %#x", v)
	}
	out(s, regIIRFCR, fcrEnable|0x80) // trigger at 8
	if v := in(s, regIIRFCR); v != iirFIFO|iirTimeout {
		t.Errorf("IIR %#x below the trigger level, want a time-out", v)
	}
	var got []byte
	for in(s, regLSR)&lsrDR != 0 {
		got = append(got, in(s, regData))
	}
	if string(got) != "abc" || l.level {
		t.Errorf("received %q, level %v", got, l.level)
	}
	if n := s.Feed(make([]byte, 100)); n != fifoSize {
		t.Errorf("%d of 100 bytes fed, want %d", n, fifoSize)
	}
	if n := s.Feed([]byte("x")); n != 0 {
		t.Errorf("%d bytes fed into a full FIFO", n)
	}
	out(s, regIIRFCR, fcrEnable|fcrClearRX)
	if in(s, regLSR)&lsrDR != 0 {
		t.Error("clearing the FIFO leaves data")
	}
	out(s, regIIRFCR, 0)
	if n := s.Feed([]byte("xy")); n != 1 {
		t.Errorf("%d bytes fed without a FIFO, want 1", n)
	}
}

func TestSerialLoopback(t *testing.T) {
	o := &output{}
	s, l := enabled(o, ierRX|ierLine|ierModem)
	out(s, regMCR, mcrLoop)
	in(s, regMSR) // takes the deltas of switching
	out(s, regMCR, mcrLoop|mcrRTS)
	if v := in(s, regMSR); v != msrCTS|msrCTS>>4 {
		t.Errorf("MSR %#x, want CTS and its change", v)
	}
	if s.Feed([]byte("x")) != 0 {
		t.Error("in loopback the line is still connected")
	}
	for i := range fifoSize + 1 {
		out(s, regData, uint8(i))
	}
	if v := in(s, regIIRFCR) & 0xf; v != iirLine {
		t.Errorf("IIR %#x, want the line status: an overrun", v)
	}
	if v := in(s, regLSR); v&lsrOverrun == 0 {
		t.Errorf("LSR %#x, want an overrun", v)
	}
	if v := in(s, regLSR); v&lsrOverrun != 0 {
		t.Error("reading LSR does not clear the overrun")
	}
	for i := range fifoSize {
		if v := in(s, regData); int(v) != i {
			t.Errorf("byte %d came back as %d", i, v)
		}
	}
	if l.level || o.String() != "" {
		t.Errorf("loopback leaks: interrupt %v, output %q", l.level, o)
	}
}

// blocked is a writer that waits until it is told to go on.
type blocked struct {
	output
	release chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.output.Write(p)
}

// A writer that hangs stops neither the guest nor grows memory; a polite driver loses nothing when it goes on.
func TestSerialSlowWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blocked{release: make(chan struct{})}
		l := &line{}
		s := NewSerial(w, l.set)
		out(s, regMCR, mcrOut2)
		sent := 0
		for in(s, regLSR)&lsrTHRE != 0 {
			out(s, regData, uint8(sent))
			sent++
			if sent > 3*outputLimit {
				t.Fatal("the transmitter never looks busy")
			}
		}
		out(s, regIER, ierTHRE)
		if l.level {
			t.Error("an interrupt while the transmitter is busy")
		}
		for range 2 * outputLimit { // a rude one
			out(s, regData, 0xee)
		}
		if n := len(s.pending); n > outputLimit {
			t.Errorf("%d bytes wait for the writer", n)
		}
		if s.Flush(time.Second) {
			t.Error("Flush says that all was written")
		}
		close(w.release)
		synctest.Wait()
		if !l.level {
			t.Error("no interrupt when the transmitter is ready again")
		}
		got := []byte(w.String())
		if len(got) < sent {
			t.Fatalf("%d bytes arrived, want at least %d", len(got), sent)
		}
		for i := range sent {
			if got[i] != uint8(i) {
				t.Fatalf("byte %d is %#x", i, got[i])
			}
		}
	})
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestSerialFailingWriter(t *testing.T) {
	s := NewSerial(failing{}, nil)
	out(s, regData, []byte("lost")...)
	if !s.Flush(10 * time.Second) {
		t.Error("output to a failing writer does not end")
	}
	if in(s, regLSR)&lsrTHRE == 0 {
		t.Error("the transmitter stays busy")
	}
}

func TestSerialFeedAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := enabled(&output{}, ierRX)
		want := []byte(strings.Repeat("a long line that is pasted ", 20))
		done := make(chan error, 1)
		go func() { done <- s.FeedAll(t.Context(), want) }()
		var got []byte
		for len(got) < len(want) {
			synctest.Wait()
			if !l.level {
				t.Fatalf("no interrupt after %d bytes", len(got))
			}
			for in(s, regLSR)&lsrDR != 0 {
				got = append(got, in(s, regData))
			}
		}
		if err := <-done; err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v, got %q", err, got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- s.FeedAll(ctx, want) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestSerialState(t *testing.T) {
	s, _ := enabled(&output{}, ierRX|ierTHRE)
	s.Feed([]byte("typed ahead"))
	out(s, regSCR, 0x42)
	saved, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	l := &line{}
	again := NewSerial(nil, l.set)
	if err := again.UnmarshalBinary(saved); err != nil {
		t.Fatal(err)
	}
	if !l.level {
		t.Error("the interrupt line is not restored")
	}
	saved2, err := again.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(saved, saved2); diff != "" {
		t.Errorf("state (-saved +restored):\n%s", diff)
	}
	for _, c := range []struct {
		name string
		bad  []byte
	}{
		{"empty", nil},
		{"other version", append([]byte{9}, saved[1:]...)},
		{"truncated", saved[:len(saved)-1]},
		{"too long", append(slices.Clone(saved), 0)},
		{"IER", replaced(saved, 1, 0xff)},
		{"FCR", replaced(saved, 2, 0xff)},
		{"MCR", replaced(saved, 4, 0xff)},
		{"MSR", replaced(saved, 8, 0xff)},
		{"flags", replaced(saved, 9, 0xff)},
		{"FIFO", append(replaced(saved[:serialFixed], 11, 17), make([]byte, 17)...)},
	} {
		if err := again.UnmarshalBinary(c.bad); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
	if after, err := again.MarshalBinary(); err != nil || !bytes.Equal(after, saved) {
		t.Error("a refused state changed the device")
	}
}

func replaced(b []byte, i int, v byte) []byte {
	b = slices.Clone(b)
	b[i] = v
	return b
}
