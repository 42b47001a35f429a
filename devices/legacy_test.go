package devices

import (
	"bytes"
	"testing"
)

func kbdIn(k *I8042, off uint64) uint8 {
	p := []byte{0}
	k.Read(off, p)
	return p[0]
}

func TestI8042Reset(t *testing.T) {
	for _, c := range []struct {
		name   string
		write  [][2]uint8 // offset, value
		resets int
	}{
		{"pulse", [][2]uint8{{kbdCommand, 0xfe}}, 1},
		{"pulse all", [][2]uint8{{kbdCommand, 0xf0}}, 1},
		{"pulse none", [][2]uint8{{kbdCommand, 0xff}}, 0},
		{"output port", [][2]uint8{{kbdCommand, kbdWriteOutput}, {kbdData, 0x02}}, 1},
		{"A20 only", [][2]uint8{{kbdCommand, kbdWriteOutput}, {kbdData, 0x01}}, 0},
		{"value on the data port", [][2]uint8{{kbdData, 0xfe}}, 0},
		{"other ports", [][2]uint8{{1, 0xfe}, {2, 0xfe}, {3, 0xfe}}, 0},
	} {
		n := 0
		k := NewI8042(func() { n++ })
		for _, w := range c.write {
			k.Write(uint64(w[0]), []byte{w[1]})
		}
		if n != c.resets {
			t.Errorf("%s: %d resets, want %d", c.name, n, c.resets)
		}
	}
}

// Linux's probe finds a controller that passes its self-test, with nothing on either port, without a single time-out:
// the status says at once that there is an answer, and never that the controller is busy.
func TestI8042Probe(t *testing.T) {
	k := NewI8042(nil)
	if s := kbdIn(k, kbdCommand); s&kbdStatusOBF != 0 || s&2 != 0 {
		t.Fatalf("status %#x at the start", s)
	}
	for _, c := range []struct {
		name    string
		command uint8
		param   []byte
		want    int // -1: no answer
	}{
		{"self-test", kbdSelfTest, nil, 0x55},
		{"read CTR", kbdReadCTR, nil, kbdCTRInitial},
		{"write CTR", kbdWriteCTR, []byte{0x74}, -1},
		{"read it back", kbdReadCTR, nil, 0x74},
		{"enable AUX", kbdAuxEnable, nil, -1},
		{"seen in CTR", kbdReadCTR, nil, 0x54},
		{"disable AUX", kbdAuxDisable, nil, -1},
		{"enable keyboard", kbdEnable, nil, -1},
		{"seen in CTR", kbdReadCTR, nil, 0x64},
		{"disable keyboard", kbdDisable, nil, -1},
		{"AUX loop", kbdAuxLoop, []byte{0x5a}, 0x5a},
		{"AUX test", kbdAuxTest, nil, kbdLineStuck},
		{"keyboard test", kbdPortTest, nil, kbdLineStuck},
		{"send to AUX", kbdAuxSend, []byte{0xff}, kbdResendReply},
		{"output port", kbdReadOutput, nil, kbdOutputA20},
		{"echo", kbdWriteOBF, []byte{7}, 7},
		{"unknown", 0x99, nil, -1},
	} {
		k.Write(kbdCommand, []byte{c.command})
		if c.param != nil {
			k.Write(kbdData, c.param)
		}
		got := -1
		if kbdIn(k, kbdCommand)&kbdStatusOBF != 0 {
			got = int(kbdIn(k, kbdData))
		}
		if got != c.want {
			t.Errorf("%s: answer %#x, want %#x", c.name, got, c.want)
		}
	}
	k.Write(kbdData, []byte{0xf2}) // ask the keyboard for its name
	if kbdIn(k, kbdData) != kbdResendReply {
		t.Error("somebody answers on the keyboard's port")
	}
	if v := kbdIn(k, 1); v != 0xff {
		t.Errorf("port 0x61 reads %#x", v)
	}
}

func TestI8042State(t *testing.T) {
	k := NewI8042(nil)
	k.Write(kbdCommand, []byte{kbdReadOutput})
	k.Write(kbdCommand, []byte{kbdWriteCTR})
	saved, err := k.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again := NewI8042(nil)
	if err := again.UnmarshalBinary(saved); err != nil {
		t.Fatal(err)
	}
	again.Write(kbdData, []byte{0x11}) // the parameter arrives after the restore
	if kbdIn(again, kbdData) != kbdOutputA20 {
		t.Error("the answer that waited was lost")
	}
	again.Write(kbdCommand, []byte{kbdReadCTR})
	if v := kbdIn(again, kbdData); v != 0x11 {
		t.Errorf("CTR %#x, want 0x11", v)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "version": replaced(saved, 0, 9), "long": append(bytes.Clone(saved), 0), "command": replaced(saved, 3, 1),
		"flag": replaced(saved, 5, 2),
	} {
		if err := again.UnmarshalBinary(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPhase(t *testing.T) {
	var got []byte
	p := NewPhase(func(b byte) { got = append(got, b) })
	p.Write(0, []byte{1})
	p.Write(0, []byte{2})
	b := []byte{0}
	if p.Read(0, b); b[0] != 0xff || string(got) != "\x01\x02" {
		t.Errorf("read %#x, phases % x", b[0], got)
	}
}

func TestSleep(t *testing.T) {
	for _, c := range []struct {
		off  uint64
		data []byte
		want bool
	}{
		{0, []byte{slpEnable | 5<<slpTypeShift}, true},
		{0, []byte{5 << slpTypeShift}, false},
		{0, []byte{slpEnable}, false},
		{0, []byte{slpEnable | 3<<slpTypeShift}, false},
		{1, []byte{slpEnable | 5<<slpTypeShift}, false},
		{0, []byte{slpEnable | 5<<slpTypeShift, 0}, false},
	} {
		got := false
		d := NewSleep(func() { got = true })
		if d.Write(c.off, c.data); got != c.want {
			t.Errorf("% x at %d: off %v", c.data, c.off, got)
		}
	}
	p := []byte{7, 7}
	if NewSleep(nil).Read(0, p); p[0] != 0 || p[1] != 0 {
		t.Errorf("read % x", p)
	}
}
