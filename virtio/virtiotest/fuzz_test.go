package virtiotest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
)

// flawed is a device that copies what is readable to what is writable, and has one fault.
type flawed struct {
	fault string
	kept  []byte // a device-writable buffer of the last chain
	count byte
	hang  chan struct{}
}

func (d *flawed) ID() virtio.DeviceID { return 42 }
func (d *flawed) Features() uint64    { return 0 }
func (d *flawed) Queues() []uint16    { return []uint16{16} }
func (d *flawed) Config() []byte      { return nil }

func (d *flawed) Reset() {
	switch d.fault {
	case "remembers across a reset":
		return
	case "writes in Reset":
		if len(d.kept) > 0 {
			d.kept[0]++ // the harness takes it for a chain that comes back
		}
	case "writes after Reset":
		return
	}
	d.count, d.kept = 0, nil
}

func (d *flawed) MarshalState() ([]byte, error) {
	if d.fault == "writes after Reset" {
		return nil, nil
	}
	return []byte{d.count}, nil
}

func (d *flawed) UnmarshalState(p []byte) error {
	if len(p) == 1 && d.fault != "forgets in a restore" {
		d.count = p[0]
	}
	return nil
}

func (d *flawed) Serve(_ context.Context, _ int, q *virtio.Queue) error {
	if d.fault == "writes after Reset" && len(d.kept) > 0 {
		d.kept[0]++
	}
	for {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.count++
		switch in := c.Readable(); {
		case d.fault == "panics":
			panic("at the guest's will")
		case d.fault == "hangs":
			<-d.hang
		case d.fault == "writes to readable buffers" && len(in) > 0:
			in[0][0]++
		}
		buf := make([]byte, 64)
		n := c.Write(buf[:virtio.CopyFrom(buf, c.Readable())])
		if out := c.Writable(); len(out) > 0 {
			d.kept = out[0]
		}
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
}

// verdict is a testing.TB that keeps what it is told.
type verdict struct {
	testing.TB
	said string
}

func (v *verdict) Helper()                           {}
func (v *verdict) Errorf(format string, args ...any) { v.said += fmt.Sprintf(format, args...) + "\n" }
func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

// seedVerdict runs the harness' seeds against a device with a fault.
func seedVerdict(t *testing.T, fault string) string {
	hang := make(chan struct{})
	v := &verdict{TB: t}
	opts := FuzzOptions{timeout: time.Minute}
	if fault == "hangs" {
		opts.timeout, opts.hung = 50*time.Millisecond, func() {
			v.said += "hung"
			close(hang)
		}
	}
	for _, seed := range fuzzSeeds([][]byte{[]byte("request")}) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					v.Errorf("panic: %v", p)
				}
			}()
			fuzzOnce(v, func(testing.TB) virtio.Device { return &flawed{fault: fault, hang: hang} }, opts, seed)
		}()
		if <-done; v.said != "" {
			break
		}
	}
	return v.said
}

// TestOracles: each oracle of the fuzzer sees the fault that it is there for, in the seeds already.
func TestOracles(t *testing.T) {
	for fault, want := range map[string]string{
		"":                           "",
		"panics":                     "panic: at the guest's will",
		"hangs":                      "hung",
		"writes to readable buffers": "which is in no device-writable buffer",
		"writes after Reset":         "which is in no device-writable buffer",
		"remembers across a reset":   "state after a reset is not the initial one",
		"forgets in a restore":       "state changed on the way",
		"writes in Reset":            "",
	} {
		if got := seedVerdict(t, fault); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("a device that %q: the fuzzer says %q, want %q", fault, got, want)
		}
	}
}
