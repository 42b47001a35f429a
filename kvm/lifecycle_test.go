package kvm_test

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

// openFiles and kvmMappings count what a VM that is not closed properly would leave behind.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func kvmMappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "kvm-vcpu")
}

// TestThousandLives makes, runs, kicks and closes a VM with an irqfd and an ioeventfd, again and again, while other
// goroutines allocate and collect garbage.
func TestThousandLives(t *testing.T) {
	lives := 1000
	if testing.Short() {
		lives = 50
	}
	s := kvmtest.Open(t)
	defer load()()
	oneLife(t, s) // opens what stays open, such as the runtime's poller
	files, mappings := openFiles(t), kvmMappings(t)
	for range lives {
		oneLife(t, s)
		if t.Failed() {
			return
		}
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d descriptors are open, want %d", n, files)
	}
	if n := kvmMappings(t); n != mappings {
		t.Errorf("%d kvm_run pages are mapped, want %d", n, mappings)
	}
}

// load keeps a processor and the garbage collector busy until stop is called.
func load() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var keep [][]byte
		for {
			select {
			case <-done:
				runtime.KeepAlive(keep)
				return
			case <-time.After(time.Millisecond):
			}
			keep = append(keep, make([]byte, 1<<20))
			if len(keep) == 16 {
				keep = nil
				runtime.GC()
			}
		}
	}()
	return func() { close(done); <-ended }
}

func oneLife(t *testing.T, s *kvm.System) {
	t.Helper()
	g := kvmtest.New(t, s, kvmtest.Real, kickGuests[1].code, (*kvm.VM).CreateIRQChip)
	fd := eventfdOwned(t)
	if err := g.VM.IRQFD(fd, 5); err != nil {
		t.Fatal(err)
	}
	if err := g.VM.IOEventFD(fd, kvm.IOEvent{Addr: 0x300000}); err != nil {
		t.Fatal(err)
	}
	sp := startSpinner(g, 0)
	sp.end(t, <-sp.tid)
	g.Close()
	_ = unix.Close(fd)
}

// eventfdOwned returns an eventfd that the caller closes.
func eventfdOwned(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
