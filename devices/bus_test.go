package devices

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder is a handler that notes what it is asked.
type recorder struct {
	mu    sync.Mutex
	name  string
	calls []string
}

func (r *recorder) Read(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf("read %d+%d", off, len(p)))
	for i := range p {
		p[i] = r.name[0]
	}
}

func (r *recorder) Write(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf("write %d: % x", off, p))
}

func TestBusDispatch(t *testing.T) {
	b := NewBus()
	var devs []*recorder
	for i, r := range [][2]uint64{{0x300, 8}, {0x100, 16}, {0x308, 1}, {^uint64(0) - 8, 8}} { // not in order
		d := &recorder{name: string(rune('a' + i))}
		devs = append(devs, d)
		if err := b.Add(r[0], r[1], d); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		addr uint64
		n    int
		want string
	}{
		{0x300, 1, "a"}, {0x307, 1, "a"}, {0x308, 1, "c"}, {0x309, 1, "\xff"}, {0x2ff, 1, "\xff"},
		{0x304, 4, "aaaa"}, {0x305, 4, "\xff\xff\xff\xff"}, // across the end
		{0x2ff, 2, "\xff\xff"}, // across the start
		{0x100, 8, "bbbbbbbb"}, {0, 4, "\xff\xff\xff\xff"}, {0x110, 1, "\xff"},
		{^uint64(0) - 8, 8, "dddddddd"}, {^uint64(0) - 4, 8, strings.Repeat("\xff", 8)}, {^uint64(0), 1, "\xff"},
	} {
		p := make([]byte, c.n)
		if b.Read(c.addr, p); string(p) != c.want {
			t.Errorf("read %#x+%d: %q, want %q", c.addr, c.n, p, c.want)
		}
	}
	b.Write(0x303, []byte{1, 2})
	b.Write(0x309, []byte{1})
	b.Write(0x307, []byte{1, 2})
	want := []string{"read 0+1", "read 7+1", "read 4+4", "write 3: 01 02"}
	if diff := cmp.Diff(want, devs[0].calls); diff != "" {
		t.Errorf("calls of the first device (-want +got):\n%s", diff)
	}
}

func TestBusRefuses(t *testing.T) {
	b := NewBus()
	if err := b.Add(0x100, 0x10, &recorder{name: "a"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		base, size uint64
		want       string
	}{
		{0x100, 0x10, "overlaps 0x100+0x10"}, {0xf1, 0x10, "overlaps"}, {0x10f, 1, "overlaps"}, {0, 0x1000, "overlaps"},
		{0x104, 1, "overlaps"}, {0x200, 0, "bad range"}, {^uint64(0), 2, "bad range"},
	} {
		if err := b.Add(c.base, c.size, &recorder{name: "b"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%#x+%#x: %v, want %q", c.base, c.size, err, c.want)
		}
	}
	if err := b.Add(0xf0, 0x10, &recorder{name: "c"}); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
}

func TestBusDoesNotAllocate(t *testing.T) {
	b := NewBus()
	k := NewI8042(nil)
	for i := range uint64(20) {
		if err := b.Add(i*16, I8042Size, k); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 1)
	if n := testing.AllocsPerRun(100, func() { b.Read(160, p); b.Write(164, p); b.Read(9, p) }); n != 0 {
		t.Errorf("%v allocations per access", n)
	}
}

// Devices may be added while other goroutines use the bus.
func TestBusConcurrently(t *testing.T) {
	b := NewBus()
	d := &recorder{name: "d"}
	if err := b.Add(1000, 8, d); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 500 {
				p := make([]byte, 2)
				if b.Read(1000, p); !bytes.Equal(p, []byte("dd")) {
					t.Errorf("read %q", p)
				}
				b.Write(1002, p)
			}
		})
	}
	for i := range uint64(50) {
		if err := b.Add(i*8, 8, d); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	if len(d.calls) != 4*500*2 {
		t.Errorf("%d calls arrived", len(d.calls))
	}
}

// FuzzBus compares a bus with a list of ranges. Its oracles: a range is taken exactly when it is not empty, does not wrap
// and overlaps no other; an access that is wholly inside one reaches its device, once, with the right offset, and any
// other reaches none.
func FuzzBus(f *testing.F) {
	f.Add([]byte{0, 8, 8, 0, 16, 8, 1, 8, 4, 1, 12, 8, 2, 15, 1, 1, 16, 1})
	f.Add([]byte{0, 0xff, 1, 0, 0xfe, 1, 0, 0xff, 8, 1, 0xfe, 1, 1, 0xff, 8, 0, 1, 0})
	f.Add([]byte{0, 4, 4, 0, 2, 3, 0, 0, 200, 0, 0, 4, 1, 3, 2, 2, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		type ranged struct {
			base, size uint64
			dev        *recorder
		}
		b := NewBus()
		var all []ranged
		for ; len(ops) >= 3; ops = ops[3:] {
			addr, size := uint64(int64(int8(ops[1]))), uint64(ops[2]) // the negative ones are the last addresses
			if ops[0]%3 == 0 {
				ok := size > 0 && addr+size >= size
				for _, r := range all {
					ok = ok && (addr+size <= r.base || r.base+r.size <= addr)
				}
				d := &recorder{name: string(rune('a' + len(all)%26))}
				if err := b.Add(addr, size, d); (err == nil) != ok {
					t.Fatalf("Add(%#x, %#x): %v, want ok %v", addr, size, err, ok)
				} else if ok {
					all = append(all, ranged{addr, size, d})
				}
				continue
			}
			p := bytes.Repeat([]byte{0x5a}, 1+int(size%8))
			var want []string
			answer := bytes.Repeat([]byte{0xff}, len(p))
			for _, r := range all {
				if off := addr - r.base; addr >= r.base && off < r.size && uint64(len(p)) <= r.size-off {
					want = []string{fmt.Sprintf("read %d+%d", off, len(p))}
					answer = bytes.Repeat([]byte(r.dev.name), len(p))
					if ops[0]%3 == 2 {
						want = []string{fmt.Sprintf("write %d: % x", off, p)}
					}
				}
			}
			if ops[0]%3 == 2 {
				b.Write(addr, p)
			} else if b.Read(addr, p); !bytes.Equal(p, answer) {
				t.Fatalf("read %#x+%d: %q, want %q", addr, len(p), p, answer)
			}
			var got []string
			for _, r := range all {
				got = append(got, r.dev.calls...)
				r.dev.calls = nil
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("access %#x+%d (-want +got):\n%s", addr, len(p), diff)
			}
		}
	})
}
