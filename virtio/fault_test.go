package virtio_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// A fault in guest memory must leave no lock behind that the reset of the device waits for.
func TestFaultLeavesTheQueueUnlocked(t *testing.T) {
	const desc, avail, used, data = 0x1000, 0x2000, 0x3000, 0x4000
	mem, err := guestmem.Map([]guestmem.Region{{Base: 0, Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	le := binary.LittleEndian
	ram := mem.Host(0)
	for i := range uint64(2) {
		d := ram[desc+16*i:]
		le.PutUint64(d, data)
		le.PutUint32(d[8:], 16)
		le.PutUint16(ram[avail+4+2*i:], uint16(i))
	}
	le.PutUint16(ram[avail+2:], 2)
	q, err := virtio.NewQueue(mem, virtio.QueueConfig{Size: 8, DescTable: desc, AvailRing: avail, UsedRing: used}, 8, 0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	first, err := q.Pop()
	if first == nil || err != nil {
		t.Fatal(first, err)
	}
	second, err := q.Pop()
	if second == nil || err != nil {
		t.Fatal(second, err)
	}
	if err := q.Push(first, 0); err != nil {
		t.Fatal(err)
	}
	protect := func(page int) {
		if err := unix.Mprotect(ram[page:page+guestmem.PageSize], unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		page int
		do   func() error
	}{
		{"Notify", avail, func() error { q.Notify(); return nil }},
		{"Pop", avail, func() error { _, err := q.Pop(); return err }},
		{"Push", used, func() error { return q.Push(second, 0) }},
	} {
		protect(c.page)
		var fault *guestmem.FaultError
		if err := q.Guard(c.do); !errors.As(err, &fault) || int(fault.Addr)>>12 != c.page>>12 {
			t.Errorf("%s: %v, want a fault at %#x", c.name, err, c.page)
		}
		done := make(chan int)
		go func() { done <- q.InFlight() }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s left the queue locked", c.name)
		}
	}
}

// faulty is a device whose Serve met a fault in a goroutine of its own.
type faulty struct{ *echo }

var errFault = fmt.Errorf("push: %w", &guestmem.FaultError{Addr: 0x5000, Cause: errors.New("SIGBUS")})

func (faulty) Serve(context.Context, int, *virtio.Queue) error { return errFault }

// The driver did nothing wrong and cannot mend it: the VM has to end.
func TestServeReturnsFaults(t *testing.T) {
	d := virtiotest.New(t, faulty{newEcho()}, virtiotest.Options{Manual: true})
	if err := d.MMIO.Serve(t.Context(), 0); !errors.Is(err, errFault) {
		t.Errorf("Serve: %v, want %v", err, errFault)
	}
	if d.Status()&virtio.StatusNeedsReset != 0 {
		t.Error("the driver is asked for a reset")
	}
}
