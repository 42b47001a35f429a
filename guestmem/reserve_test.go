package guestmem

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// resident counts the pages of b that the host backs.
func resident(t *testing.T, b []byte) (n int) {
	t.Helper()
	vec := make([]byte, len(b)/PageSize)
	if err := mincore(b, vec); err != nil {
		t.Fatal(os.NewSyscallError("mincore", err))
	}
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func TestReserve(t *testing.T) {
	m, err := Map([]Region{{0, 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const base, size = Addr(4 << 30), uint64(1) << 40 // more than any host of ours has
	if err := m.Reserve(Region{base, size}); err != nil {
		t.Fatal(err)
	}
	if len(m.Regions()) != 1 || m.Size() != 4<<20 {
		t.Errorf("the reserve is part of the RAM: %v", m.Regions())
	}
	if _, err := m.Slice(base, 0); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("Slice before Open: %v", err)
	}
	first, err := m.Open(2 << 20)
	if err != nil || len(first) != 2<<20 {
		t.Fatalf("Open: %d bytes, %v", len(first), err)
	}
	more, err := m.Open(3 << 20)
	if err != nil || len(more) != 1<<20 {
		t.Fatalf("Open of more: %d bytes, %v", len(more), err)
	}
	if again, err := m.Open(1 << 20); err != nil || again != nil {
		t.Errorf("Open of less: %d bytes, %v", len(again), err)
	}
	want := []byte("over the seam")
	if err := m.WriteAt(want, base+2<<20-4); err != nil {
		t.Fatal(err)
	}
	got, err := m.Slice(base+2<<20-4, uint32(len(want)))
	if err != nil || !bytes.Equal(got, want) || string(more[:4]) != string(want[4:8]) {
		t.Errorf("%q, %v", got, err)
	}
	if a, ok := m.AddrOf(got[1:]); !ok || a != base+2<<20-3 {
		t.Errorf("AddrOf: %#x, %v", uint64(a), ok)
	}
	if _, ok := m.AddrOf(want); ok {
		t.Error("AddrOf finds heap memory in the guest")
	}
	if _, err := m.Slice(base+3<<20-1, 2); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("Slice over the end of what is open: %v", err)
	}
	for _, n := range []uint64{size + PageSize, 4<<20 + 1} {
		if _, err := m.Open(n); err == nil {
			t.Errorf("Open(%#x) of %#x bytes", n, size)
		}
	}
}

func TestReserveLayout(t *testing.T) {
	m, err := Map([]Region{{0, 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, r := range []Region{{2 << 20, 4 << 20}, {8 << 20, 0}, {8<<20 + 1, 4096}, {1 << 30, 1 << 50}} {
		if m.Reserve(r) == nil {
			t.Errorf("%#x+%#x was accepted", uint64(r.Base), r.Size)
		}
	}
	if _, err := m.Open(0); err == nil {
		t.Error("Open without a reserve")
	}
	if err := m.Reserve(Region{8 << 20, 4 << 20}); err != nil {
		t.Fatal(err)
	}
	if m.Reserve(Region{16 << 20, 4 << 20}) == nil {
		t.Error("a second reserve was accepted")
	}
}

func TestRelease(t *testing.T) {
	mapped, err := Map([]Region{{0, 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer mapped.Close()
	for name, m := range map[string]*Memory{"mapped": mapped, "heap": FromBytes(0, make([]byte, 4<<20))} {
		t.Run(name, func(t *testing.T) {
			all, err := m.Slice(0, 4<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct{ a, n, first, end uint64 }{
				{0, 4096, 0, 4096},
				{8192, 2 << 20, 8192, 8192 + 2<<20},
				{1, 8191, 4096, 8192},
				{4095, 4098, 4096, 8192},
				{1, 4095, 0, 0},
				{100, 4096, 0, 0},
				{0, 0, 0, 0},
				{4<<20 - 4096, 4096, 4<<20 - 4096, 4 << 20},
			} {
				for i := range all {
					all[i] = 1
				}
				if err := m.Release(Addr(tt.a), tt.n); err != nil {
					t.Fatalf("%#x+%#x: %v", tt.a, tt.n, err)
				}
				if n := uint64(bytes.Count(all, []byte{0})); n != tt.end-tt.first || n > 0 && (all[tt.first] != 0 || all[tt.end-1] != 0) {
					t.Errorf("%#x+%#x: %#x bytes are zero, want those from %#x to %#x", tt.a, tt.n, n, tt.first, tt.end)
				}
			}
			for _, bad := range []Region{{0, 4<<20 + 1}, {4 << 20, 0}, {4096, ^uint64(0)}, {1 << 40, 4096}} {
				if err := m.Release(bad.Base, bad.Size); !errors.Is(err, ErrOutOfRange) {
					t.Errorf("%#x+%#x: %v", uint64(bad.Base), bad.Size, err)
				}
			}
		})
	}
}

func TestReleaseFrees(t *testing.T) {
	m, err := Map([]Region{{0, 8 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b := m.Host(0)
	for i := 0; i < len(b); i += PageSize {
		b[i] = 1
	}
	if n := resident(t, b); n != 2048 {
		t.Fatalf("%d pages are backed, want 2048", n)
	}
	if err := m.Release(2<<20, 4<<20); err != nil {
		t.Fatal(err)
	}
	if n := resident(t, b); n != 1024 {
		t.Errorf("%d pages are backed after 1024 were released", n)
	}
}
