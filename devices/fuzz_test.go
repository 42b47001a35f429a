package devices

import (
	"bytes"
	"testing"
	"time"
)

// sink counts and takes everything at once.
type sink struct{ n int }

func (s *sink) Write(p []byte) (int, error) {
	s.n += len(p)
	return len(p), nil
}

// FuzzSerial runs a sequence of register accesses and input. Its oracles: no panic; no more output than was sent, and
// memory for it bounded; the interrupt line agrees with IIR; the state survives being saved and restored; a reset
// brings back the initial state.
func FuzzSerial(f *testing.F) {
	f.Add([]byte{0x87, 3, 0x80, 1, 0x81, 0xf, 0x10, 'a', 0x00})
	f.Add([]byte{0x84, 0x1f, 0x80, 'x', 0x80, 'y', 0x02, 0x05, 0x06})
	f.Fuzz(func(t *testing.T, ops []byte) {
		w, l := &sink{}, &line{}
		s := NewSerial(w, l.set)
		initial, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		writes := 0
		for len(ops) > 0 {
			op := ops[0]
			ops = ops[1:]
			reg := uint64(op & 7)
			size := min(1+int(op>>4&7), int(SerialSize-reg))
			switch {
			case op&0x80 != 0:
				p := make([]byte, size)
				ops = ops[copy(p, ops):]
				s.Write(reg, p)
				writes++
			case op&0x08 != 0:
				n := min(size, len(ops))
				if fed := s.Feed(ops[:n]); fed < 0 || fed > n {
					t.Fatalf("fed %d of %d", fed, n)
				}
				ops = ops[n:]
			default:
				s.Read(reg, make([]byte, size))
			}
			checkSerial(t, s, l)
		}
		checkRoundTrip(t, s)
		s.Reset()
		after, err := s.MarshalBinary()
		if err != nil || !bytes.Equal(after, initial) {
			t.Fatalf("after a reset % x, %v; initially % x", after, err, initial)
		}
		if !s.Flush(10 * time.Second) {
			t.Fatal("the output does not drain")
		}
		if w.n > writes {
			t.Fatalf("%d bytes written out, %d sent", w.n, writes)
		}
	})
}

func checkSerial(t *testing.T, s *Serial, l *line) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) > outputLimit || len(s.rx) > fifoSize || cap(s.rx) > fifoSize {
		t.Fatalf("%d bytes wait for output, %d were received into room for %d", len(s.pending), len(s.rx), cap(s.rx))
	}
	want := s.interrupt() != iirNone && s.regs.mcr&(mcrOut2|mcrLoop) == mcrOut2
	if s.level != want || l.level != want {
		t.Fatalf("interrupt line %v, want %v", l.level, want)
	}
}

func checkRoundTrip(t *testing.T, s *Serial) {
	t.Helper()
	saved, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again := NewSerial(nil, nil)
	if err := again.UnmarshalBinary(saved); err != nil {
		t.Fatalf("a state that was reached is refused: %v", err)
	}
	got, err := again.MarshalBinary()
	if err != nil || !bytes.Equal(got, saved) {
		t.Fatalf("restored % x, %v; saved % x", got, err, saved)
	}
}

// FuzzSerialState restores arbitrary states: refused, or saved again as they were.
func FuzzSerialState(f *testing.F) {
	s := NewSerial(nil, nil)
	s.Feed([]byte("x"))
	b, err := s.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewSerial(nil, nil)
		if s.UnmarshalBinary(b) != nil {
			return
		}
		got, err := s.MarshalBinary()
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("saved % x, %v; restored % x", got, err, b)
		}
		s.Feed(make([]byte, 20))
		s.Read(0, make([]byte, SerialSize))
	})
}

// FuzzI8042 runs a sequence of accesses. Its oracles: no panic, the state can be saved and restored, a reset brings
// back the initial state, and only the reset line resets.
func FuzzI8042(f *testing.F) {
	f.Add([]byte{4, 0xaa, 0x80, 4, 0x60, 0, 0x11, 4, 0xfe})
	f.Fuzz(func(t *testing.T, ops []byte) {
		resets, pulses := 0, 0
		k := NewI8042(func() { resets++ })
		initial, err := k.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		for len(ops) >= 2 {
			off, v := uint64(ops[0]&7)%I8042Size, ops[1]
			if ops[0]&0x80 != 0 {
				k.Read(off, make([]byte, 1+v&3))
			} else {
				k.Write(off, []byte{v})
				if v&kbdResetLine == 0 {
					pulses++
				}
			}
			ops = ops[2:]
		}
		if resets > pulses {
			t.Fatalf("%d resets, at most %d asked for", resets, pulses)
		}
		saved, err := k.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		again := NewI8042(nil)
		if err := again.UnmarshalBinary(saved); err != nil {
			t.Fatalf("a state that was reached is refused: %v", err)
		}
		k.Reset()
		if after, err := k.MarshalBinary(); err != nil || !bytes.Equal(after, initial) {
			t.Fatalf("after a reset % x, %v", after, err)
		}
	})
}
