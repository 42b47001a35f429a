package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func TestDatagram(t *testing.T) {
	var stream bytes.Buffer
	for _, p := range []string{"READY=1\n", "", string(make([]byte, MaxDatagram))} {
		if err := WriteDatagram(&stream, []byte(p)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadDatagram(&stream, make([]byte, 4))
		if err != nil || string(got) != p {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(p))
		}
	}
	if _, err := ReadDatagram(&stream, nil); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := WriteDatagram(&stream, make([]byte, MaxDatagram+1)); !errors.Is(err, ErrDatagram) || stream.Len() != 0 {
		t.Errorf("too large to send: %v, %d bytes sent", err, stream.Len())
	}
	for _, tt := range []struct {
		b    []byte
		want error
	}{
		{[]byte{1, 0}, io.ErrUnexpectedEOF}, {[]byte{2, 0, 0, 0, 'x'}, io.ErrUnexpectedEOF}, {[]byte{1, 0, 0, 0}, io.ErrUnexpectedEOF},
		{binary.LittleEndian.AppendUint32(nil, MaxDatagram+1), ErrDatagram}, {bytes.Repeat([]byte{255}, 8), ErrDatagram},
	} {
		if got, err := ReadDatagram(bytes.NewReader(tt.b), nil); !errors.Is(err, tt.want) {
			t.Errorf("%x: got %x, %v, want %v", tt.b, got, err, tt.want)
		}
	}
}

func FuzzReadDatagram(f *testing.F) {
	f.Add([]byte{3, 0, 0, 0, 'a', 'b', 'c', 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var again bytes.Buffer
		var buf []byte
		for {
			p, err := ReadDatagram(r, buf)
			if err != nil {
				break
			}
			buf = p
			if len(p) > MaxDatagram {
				t.Fatalf("a datagram of %d bytes", len(p))
			}
			if err := WriteDatagram(&again, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%x reads and writes to %x", b, again.Bytes())
		}
	})
}

func TestSender(t *testing.T) {
	for _, s := range []Sender{{"\x7f\x00\x00\x01", 40000}, {string(make([]byte, 16)), 1}} {
		got, p, err := CutSender(s.Append(nil, []byte("question")))
		if got != s || string(p) != "question" || err != nil {
			t.Errorf("got %v, %q, %v, want %v", got, p, err, s)
		}
	}
	for _, b := range []string{"", "\x04\x7f\x00\x00\x01\x01", "\x05123451", "\x10\x01", "\xff"} {
		if s, p, err := CutSender([]byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: got %v, %q, %v", b, s, p, err)
		}
	}
}

func FuzzCutSender(f *testing.F) {
	f.Add([]byte("\x04\x7f\x00\x00\x01\x35\x00question"))
	f.Add([]byte("\x10"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, p, err := CutSender(b)
		if err == nil && !bytes.Equal(s.Append(nil, p), b) {
			t.Errorf("%x reads as %v and %x", b, s, p)
		}
	})
}
