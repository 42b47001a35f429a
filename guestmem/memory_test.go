package guestmem

import (
	"bytes"
	"errors"
	"testing"
)

func TestSliceBounds(t *testing.T) {
	m := FromBytes(0x1000, make([]byte, 0x2000))
	for _, tt := range []struct {
		name string
		addr Addr
		n    uint32
		ok   bool
	}{
		{"first byte", 0x1000, 1, true},
		{"all", 0x1000, 0x2000, true},
		{"one too many", 0x1000, 0x2001, false},
		{"last byte", 0x2fff, 1, true},
		{"past the end", 0x3000, 1, false},
		{"empty inside", 0x2000, 0, true},
		{"empty at the end", 0x3000, 0, false},
		{"below", 0xfff, 1, false},
		{"length overflows", 0x2fff, 0xffffffff, false},
		{"address near 2^64", ^Addr(0), 0xffffffff, false},
	} {
		b, err := m.Slice(tt.addr, tt.n)
		if (err == nil) != tt.ok {
			t.Errorf("%s: Slice(%#x, %#x) error %v, want ok %v", tt.name, tt.addr, tt.n, err, tt.ok)
		}
		if err != nil && !errors.Is(err, ErrOutOfRange) {
			t.Errorf("%s: error %v is not ErrOutOfRange", tt.name, err)
		}
		if err == nil && (len(b) != int(tt.n) || cap(b) != int(tt.n)) {
			t.Errorf("%s: len %d cap %d, want both %d", tt.name, len(b), cap(b), tt.n)
		}
	}
}

func TestAccessAcrossRegions(t *testing.T) {
	m, err := Map([]Region{{0x2000, 0x1000}, {0x1000, 0x1000}, {0x100000, 0x1000}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := bytes.Repeat([]byte{1, 2, 3, 4}, 0x100)
	if err := m.WriteAt(want, 0x1e00); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := m.ReadAt(got, 0x1e00); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read back %v, equal %v", err, bytes.Equal(got, want))
	}
	if _, err := m.Slice(0x1e00, uint32(len(want))); err == nil {
		t.Error("a slice across two regions was handed out")
	}
	if err := m.WriteAt([]byte{9, 9}, 0x2fff); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("write into the hole: %v, want ErrOutOfRange", err)
	}
	if err := m.ReadAt(got[:1], 0x2fff); err != nil || got[0] != 0 {
		t.Errorf("a refused write changed memory: %#x, %v", got[0], err)
	}
}

func TestMapRefusesBadLayouts(t *testing.T) {
	for _, layout := range [][]Region{
		nil,
		{{0, 0}},
		{{0, 100}},
		{{1, 0x1000}},
		{{0, 0x2000}, {0x1000, 0x1000}},
		{{^Addr(0xfff), 0x2000}},
		{{0, 1 << 60}},
	} {
		if m, err := Map(layout); err == nil {
			m.Close()
			t.Errorf("Map(%v) succeeded", layout)
		}
	}
}

func TestRing(t *testing.T) {
	m := FromBytes(0, make([]byte, 64))
	if _, err := m.Ring(2, 8); err == nil {
		t.Error("an unaligned ring was handed out")
	}
	if _, err := m.Ring(56, 9); err == nil {
		t.Error("a ring that ends outside RAM was handed out")
	}
	r, err := m.Ring(8, 16)
	if err != nil {
		t.Fatal(err)
	}
	r.Store32(0, 0xaabbccdd)
	if lo, hi := r.Load16(0), r.Load16(2); lo != 0xccdd || hi != 0xaabb {
		t.Errorf("Load16 = %#x, %#x", lo, hi)
	}
	r.Put16(6, 0x1234)
	if got := r.Load32(4); got != 0x12340000 {
		t.Errorf("Load32 = %#x", got)
	}
	r.Store32(8, 0x11112222)
	r.Store16(8, 0x3333)
	if got := r.Load32(8); got != 0x11113333 {
		t.Errorf("Store16 in the low half: %#x", got)
	}
	r.Store16(10, 0x4444)
	if got := r.Load32(8); got != 0x44443333 {
		t.Errorf("Store16 in the high half: %#x", got)
	}
	if _, err := m.Ring(0, 0xffffffff); err == nil {
		t.Error("a ring whose rounded length wraps was handed out")
	}
	defer func() {
		if recover() == nil {
			t.Error("an access past the ring did not panic: it would reach foreign memory")
		}
	}()
	r.Load32(16)
}

// TestStore16KeepsNeighbour has another goroutine write the other half of the word all the time, as a driver may.
func TestStore16KeepsNeighbour(t *testing.T) {
	m := FromBytes(0, make([]byte, 16))
	r, err := m.Ring(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 20000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range rounds {
			r.Store16(2, uint16(i))
			if got := r.Load16(2); got != uint16(i) {
				t.Errorf("neighbour reads %d after storing %d", got, uint16(i))
				return
			}
		}
	}()
	for i := range rounds {
		r.Store16(0, uint16(i))
		if got := r.Load16(0); got != uint16(i) {
			t.Errorf("value reads %d after storing %d", got, uint16(i))
			break
		}
	}
	<-done
}
