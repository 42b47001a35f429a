package guestmem

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGuardTurnsFaultsIntoErrors(t *testing.T) {
	m, err := Map([]Region{{0, 1 << 20}, {4 << 30, 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const page = 0x5000
	if err := unix.Mprotect(m.Host(1)[page:page+PageSize], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	ring, err := m.Ring(4<<30+page, 64)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	for name, c := range map[string]struct {
		access func() error
		at     Addr
	}{
		"copy out":    {func() error { return m.ReadAt(buf, 4<<30+page+8) }, 4<<30 + page + 8},
		"copy in":     {func() error { return m.WriteAt(buf, 4<<30+page-8) }, 4<<30 + page},
		"atomic load": {func() error { ring.Load16(2); return nil }, 4<<30 + page},
		"atomic swap": {func() error { ring.Store16(4, 1); return nil }, 4<<30 + page + 4},
	} {
		t.Run(name, func(t *testing.T) {
			var fault *FaultError
			// An access that is not aligned faults at the first byte that is not there, or at its own start.
			if err := m.Guard(c.access); !errors.As(err, &fault) || fault.Addr&^7 != c.at&^7 && fault.Addr&^7 != c.at&^7-8 {
				t.Errorf("%v, want a fault near %#x", err, uint64(c.at))
			}
		})
	}
	want := errors.New("its own")
	if err := m.Guard(func() error { return want }); err != want {
		t.Errorf("%v, want what the function returns", err)
	}
	if err := m.Guard(func() error { return m.ReadAt(buf, 4<<30) }); err != nil {
		t.Errorf("beside the bad page: %v", err)
	}
}

// What faults elsewhere, and what is no fault, is a bug and must not be hidden.
func TestGuardLetsOtherPanicsPass(t *testing.T) {
	m, err := Map([]Region{{0, 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	elsewhere := truncated(t)
	for name, f := range map[string]func(){
		"panic": func() { panic("a bug") },
		"nil":   func() { var p *Memory; _ = p.blocks },
		"index": func() { _ = m.Host(7) },
		"other": func() { elsewhere[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the panic did not get through")
				}
			}()
			err := m.Guard(func() error { f(); return nil })
			t.Errorf("Guard returns %v", err)
		})
	}
}

// truncated returns a mapping of a file that is gone from under it: touching it is SIGBUS.
func truncated(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(PageSize); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	return b
}

// SIGBUS itself, as failed RAM gives it.
func TestGuardTakesBusErrors(t *testing.T) {
	m := FromBytes(1<<20, truncated(t))
	var fault *FaultError
	if err := m.Guard(func() error { return m.ReadAt(make([]byte, 4), 1<<20+16) }); !errors.As(err, &fault) || fault.Addr != 1<<20+16 {
		t.Errorf("%v, want a fault at %#x", err, 1<<20+16)
	}
}
