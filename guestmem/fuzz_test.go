package guestmem

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const fuzzPages = 64 // of the model's address space

// model is guest memory as it should be: a shadow of each byte, and which region each page belongs to, 0 for none.
type model struct {
	bytes  [fuzzPages * PageSize]byte
	region [fuzzPages]int
}

// layout makes regions of the input and says whether memory can be made of them.
func (m *model) layout(in *input) (layout []Region, ok bool) {
	for range 1 + in.byte()%4 {
		base, pages := int(in.byte()%fuzzPages), int(in.byte()%8)
		r := Region{Addr(base) * PageSize, uint64(min(pages, fuzzPages-base)) * PageSize}
		switch in.byte() {
		case 1:
			r.Base++
		case 2:
			r.Size++
		case 3:
			r.Base = ^Addr(PageSize - 1) // the last page of the address space
		}
		layout = append(layout, r)
	}
	if !sound(layout) {
		return layout, false
	}
	for i, r := range layout {
		for p := r.Base / PageSize; p < r.End()/PageSize; p++ {
			m.region[p] = 1 + i
		}
	}
	return layout, true
}

// sound says whether regions are made of pages, do not reach the end of the address space, and have no page in common.
func sound(layout []Region) bool {
	for i, r := range layout {
		if r.Size == 0 || r.Size%PageSize != 0 || r.Base%PageSize != 0 || uint64(r.Base)+r.Size < r.Size {
			return false
		}
		for _, other := range layout[:i] {
			if r.Base < other.End() && other.Base < r.End() {
				return false
			}
		}
	}
	return true
}

// inside says whether n bytes at a are RAM, and whether they are of one region.
func (m *model) inside(a Addr, n uint64) (ram, whole bool) {
	const end = fuzzPages * PageSize
	if uint64(a) >= end || n > end-uint64(a) || m.region[a/PageSize] == 0 {
		return false, false
	}
	first := m.region[a/PageSize]
	ram, whole = true, true
	for p := uint64(a) / PageSize; p*PageSize < uint64(a)+n; p++ {
		ram, whole = ram && m.region[p] != 0, whole && m.region[p] == first
	}
	return ram, whole
}

type input struct{ p []byte }

func (in *input) byte() byte {
	if len(in.p) == 0 {
		return 0
	}
	b := in.p[0]
	in.p = in.p[1:]
	return b
}

// place makes an address and a length, close to the model's pages or to where they overflow.
func (in *input) place() (Addr, uint32) {
	var p [8]byte
	in.p = in.p[copy(p[:], in.p):]
	a, n := Addr(binary.LittleEndian.Uint32(p[:])), binary.LittleEndian.Uint32(p[4:])
	switch a >> 30 {
	case 0:
		return ^(a % 64), n
	case 1:
		return a % (fuzzPages * PageSize), ^(n % 64)
	}
	return a % (fuzzPages*PageSize + 8), n % (3 * PageSize)
}

// FuzzMemory compares memory of a random layout with a model, through a sequence of accesses. Its oracles: layouts are
// taken exactly when their regions are sound; an access succeeds exactly when it lies inside RAM (a slice, a ring:
// inside one region), moves the right bytes, and changes no others.
func FuzzMemory(f *testing.F) {
	f.Add([]byte{2, 1, 1, 0, 2, 2, 0, 9, 1, 0, 1, 0x1e, 0, 0, 0x80, 0, 4, 0, 0, 'x'})
	f.Add([]byte{0, 4, 4, 0, 0, 0, 0x40, 0, 0x80, 8, 0, 0, 0, 2, 0, 0x40, 0, 0x80, 0xff, 0, 0, 0, 3, 4, 0x40, 0, 0x80, 6, 0, 0, 0})
	f.Add([]byte{0, 0, 1, 0, 1, 0xff, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 0x40, 9, 0, 0, 0, 3, 0, 0, 0, 0x40, 1, 0, 0, 0})
	f.Add([]byte{1, 1, 2, 0, 2, 2, 0})
	f.Add([]byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		in, want := &input{data}, &model{}
		layout, ok := want.layout(in)
		m, err := Map(layout)
		if (err == nil) != ok {
			t.Fatalf("Map(%#x): %v, want ok %v", layout, err, ok)
		}
		if err != nil {
			return
		}
		defer m.Close()
		for n := 0; len(in.p) > 0 && n < 64; n++ {
			access(t, in, m, want)
		}
		for _, r := range m.Regions() {
			got := make([]byte, r.Size)
			if err := m.ReadAt(got, r.Base); err != nil || !bytes.Equal(got, want.bytes[r.Base:r.End()]) {
				t.Fatalf("region %#x (%v) is not what was written to it", r, err)
			}
		}
	})
}

func access(t *testing.T, in *input, m *Memory, want *model) {
	t.Helper()
	kind := in.byte() % 4
	a, n := in.place()
	p := make([]byte, min(n, 4*PageSize))
	ram, _ := want.inside(a, uint64(len(p)))
	ram = ram || len(p) == 0 // nothing is anywhere
	switch kind {
	case 0:
		err := m.ReadAt(p, a)
		if (err == nil) != ram || err == nil && len(p) > 0 && !bytes.Equal(p, want.bytes[a:][:len(p)]) {
			t.Fatalf("ReadAt(%d bytes, %#x): %v, want ok %v", len(p), a, err, ram)
		}
	case 1:
		for i := range p {
			p[i] = byte(i) + 1
		}
		err := m.WriteAt(p, a)
		if (err == nil) != ram {
			t.Fatalf("WriteAt(%d bytes, %#x): %v, want ok %v", len(p), a, err, ram)
		}
		if err == nil && len(p) > 0 {
			copy(want.bytes[a:], p)
		}
	case 2:
		_, whole := want.inside(a, uint64(n))
		b, err := m.Slice(a, n)
		if (err == nil) != whole || len(b) != cap(b) || err == nil && !bytes.Equal(b, want.bytes[a:][:n]) {
			t.Fatalf("Slice(%#x, %#x): %d bytes of %d, %v, want ok %v", a, n, len(b), cap(b), err, whole)
		}
	case 3:
		accessRing(t, m, want, a, n)
	}
}

// accessRing touches the last word of a ring, which is as long as it has to be for n bytes.
func accessRing(t *testing.T, m *Memory, want *model, a Addr, n uint32) {
	t.Helper()
	length := (uint64(n) + 3) &^ 3
	_, ok := want.inside(a, length)
	ok = ok && a%4 == 0
	r, err := m.Ring(a, n)
	if (err == nil) != ok {
		t.Fatalf("Ring(%#x, %#x): %v, want ok %v", a, n, err, ok)
	}
	if err != nil || length == 0 {
		return
	}
	word := want.bytes[uint64(a)+length-4:][:4]
	off := uint32(length - 4)
	if got := r.Load32(off); got != binary.LittleEndian.Uint32(word) {
		t.Fatalf("Load32 = %#x, want % x", got, word)
	}
	r.Store16(off+2, 0x1234)
	r.Put16(off, uint16(n))
	binary.LittleEndian.PutUint16(word[2:], 0x1234)
	binary.LittleEndian.PutUint16(word, uint16(n))
	if lo, hi := r.Load16(off), r.Load16(off+2); lo != uint16(n) || hi != 0x1234 {
		t.Fatalf("Load16 = %#x, %#x", lo, hi)
	}
}
