package mem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

const (
	base   guestmem.Addr = 4 << 30
	blocks               = 20
	usable               = 16
)

// ranges records what is released.
type ranges struct {
	got []guestmem.Region
	err error
}

func (r *ranges) Release(a guestmem.Addr, n uint64) error {
	r.got = append(r.got, guestmem.Region{Base: a, Size: n})
	return r.err
}

func newDevice(t testing.TB, b Backend) *Device {
	t.Helper()
	d, err := New(Config{Region: guestmem.Region{Base: base, Size: blocks * BlockSize}, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func request(kind uint16, a guestmem.Addr, n uint16) []byte {
	p := binary.LittleEndian.AppendUint64(nil, uint64(kind))
	p = binary.LittleEndian.AppendUint64(p, uint64(a))
	return binary.LittleEndian.AppendUint64(p, uint64(n))
}

// block is the address of block i.
func block(i int) guestmem.Addr { return base + guestmem.Addr(i*BlockSize) }

func do(t *testing.T, d *virtiotest.Driver, kind uint16, a guestmem.Addr, n uint16) (response, state uint16) {
	t.Helper()
	r := d.Queue(0).Do([][]byte{request(kind, a, n)}, responseSize)
	if r.Written != responseSize {
		t.Fatalf("a response of %d bytes", r.Written)
	}
	return binary.LittleEndian.Uint16(r.Bytes()), binary.LittleEndian.Uint16(r.Bytes()[8:])
}

// TestRequests is one device's life: each request with its response and how many blocks are plugged after it.
func TestRequests(t *testing.T) {
	backend := &ranges{}
	dev := newDevice(t, backend)
	if err := dev.Resize(8*BlockSize, usable*BlockSize); err != nil {
		t.Fatal(err)
	}
	d := virtiotest.New(t, dev, virtiotest.Options{})
	for _, tt := range []struct {
		name     string
		kind     uint16
		a        guestmem.Addr
		n        uint16
		response uint16
		state    uint16
		plugged  uint64
		released []guestmem.Region
	}{
		{"nothing is plugged", requestState, block(0), usable, responseACK, stateUnplugged, 0, nil},
		{"plug", requestPlug, block(2), 3, responseACK, 0, 3, nil},
		{"twice", requestPlug, block(2), 3, responseError, 0, 3, nil},
		{"partly twice", requestPlug, block(4), 2, responseError, 0, 3, nil},
		{"state of them", requestState, block(2), 3, responseACK, statePlugged, 3, nil},
		{"state of the next", requestState, block(5), 1, responseACK, stateUnplugged, 3, nil},
		{"state of both", requestState, block(4), 2, responseACK, stateMixed, 3, nil},
		{"beyond what is requested", requestPlug, block(5), 6, responseNACK, 0, 3, nil},
		{"as much as is requested", requestPlug, block(5), 5, responseACK, 0, 8, nil},
		{"one more", requestPlug, block(0), 1, responseNACK, 0, 8, nil},
		{"none", requestPlug, block(0), 0, responseError, 0, 8, nil},
		{"state of none", requestState, block(0), 0, responseError, 0, 8, nil},
		{"unplug what is not plugged", requestUnplug, block(1), 2, responseError, 0, 8, nil},
		{"unplug", requestUnplug, block(3), 2, responseACK, 0, 6, []guestmem.Region{{Base: block(3), Size: 2 * BlockSize}}},
		{"again", requestUnplug, block(3), 2, responseError, 0, 6, nil},
		{"plug again", requestPlug, block(3), 1, responseACK, 0, 7, nil},
		{"last usable block", requestPlug, block(usable - 1), 1, responseACK, 0, 8, nil},
		{"over the end of the usable part", requestState, block(usable - 1), 2, responseError, 0, 8, nil},
		{"behind it", requestState, block(usable), 1, responseError, 0, 8, nil},
		{"behind the region", requestPlug, block(blocks), 1, responseError, 0, 8, nil},
		{"before the region", requestPlug, base - BlockSize, 1, responseError, 0, 8, nil},
		{"low memory", requestUnplug, 0, 1, responseError, 0, 8, nil},
		{"as many as can be said", requestUnplug, block(0), 0xffff, responseError, 0, 8, nil},
		{"the end of the address space", requestUnplug, ^guestmem.Addr(BlockSize - 1), 2, responseError, 0, 8, nil},
		{"unaligned", requestUnplug, block(5) + 4096, 1, responseError, 0, 8, nil},
		{"unknown", 4, block(0), 1, responseError, 0, 8, nil},
		{"all", requestUnplugAll, 77, 0, responseACK, 0, 0, []guestmem.Region{{Base: base, Size: usable * BlockSize}}},
		{"after all", requestState, block(0), usable, responseACK, stateUnplugged, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend.got = nil
			response, state := do(t, d, tt.kind, tt.a, tt.n)
			if response != tt.response || state != tt.state || dev.Plugged() != tt.plugged*BlockSize || !slices.Equal(backend.got, tt.released) {
				t.Errorf("response %d, state %d, %d blocks plugged, %x released; want %d, %d, %d, %x", response, state,
					dev.Plugged()/BlockSize, backend.got, tt.response, tt.state, tt.plugged, tt.released)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for name, tt := range map[string]struct {
		request []byte
		room    int
	}{
		"short":           {request(requestPlug, base, 1)[:requestSize-1], responseSize},
		"no type":         {request(requestUnplugAll, 0, 0)[:typeSize-1], responseSize},
		"no room":         {request(requestState, base, 1), responseSize - 1},
		"no request":      {nil, responseSize},
		"no room for all": {request(requestUnplugAll, 0, 0), 1},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDevice(t, &ranges{})
			if err := dev.Resize(BlockSize, BlockSize); err != nil {
				t.Fatal(err)
			}
			d := virtiotest.New(t, dev, virtiotest.Options{Manual: true})
			d.Queue(0).Add([][]byte{tt.request}, tt.room)
			d.Queue(0).Kick()
			if got := d.Status(); got&virtio.StatusNeedsReset == 0 || dev.Plugged() != 0 {
				t.Errorf("status %#x, %d bytes plugged", got, dev.Plugged())
			}
		})
	}
	d := virtiotest.New(t, newDevice(t, &ranges{}), virtiotest.Options{})
	if r := d.Queue(0).Do([][]byte{request(requestUnplugAll, 0, 0)[:typeSize]}, responseSize); r.Written != responseSize {
		t.Error("UNPLUG_ALL needs its type only")
	}
}

func TestBusy(t *testing.T) {
	backend := &ranges{}
	dev := newDevice(t, backend)
	if err := dev.Resize(BlockSize, BlockSize); err != nil {
		t.Fatal(err)
	}
	d := virtiotest.New(t, dev, virtiotest.Options{})
	do(t, d, requestPlug, base, 1)
	backend.err = errors.New("no")
	for _, kind := range []uint16{requestUnplug, requestUnplugAll} {
		if got, _ := do(t, d, kind, base, 1); got != responseBusy || dev.Plugged() != BlockSize {
			t.Errorf("request %d: response %d, %d bytes plugged, when the host does not take them", kind, got, dev.Plugged())
		}
	}
}

func TestResize(t *testing.T) {
	dev := newDevice(t, &ranges{})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	if err := dev.Resize(4*BlockSize, 8*BlockSize); err != nil {
		t.Fatal(err)
	}
	if got := d.WaitInterrupt(); got != virtio.InterruptConfig {
		t.Errorf("interrupt status %#x", got)
	}
	do(t, d, requestPlug, base, 3)
	want := func(requested, plugged, usable uint64) {
		t.Helper()
		var p []byte
		for _, v := range []uint64{BlockSize, 0, uint64(base), blocks * BlockSize, usable * BlockSize, plugged * BlockSize, requested * BlockSize} {
			p = binary.LittleEndian.AppendUint64(p, v)
		}
		if got := d.ReadConfig(0, configSize); !bytes.Equal(got, p) {
			t.Errorf("configuration % x, want % x", got, p)
		}
	}
	want(4, 3, 8)
	for _, bad := range [][2]uint64{
		{9 * BlockSize, 8 * BlockSize}, {BlockSize, 7 * BlockSize}, {BlockSize, (blocks + 1) * BlockSize},
		{BlockSize + 4096, 8 * BlockSize}, {BlockSize, 8*BlockSize + 4096},
	} {
		if dev.Resize(bad[0], bad[1]) == nil {
			t.Errorf("resize to %#x in %#x was accepted", bad[0], bad[1])
		}
	}
	want(4, 3, 8)
	// Less than is plugged: the guest keeps it until it gives it back, and gets no more.
	if err := dev.Resize(BlockSize, 8*BlockSize); err != nil {
		t.Fatal(err)
	}
	want(1, 3, 8)
	if got, _ := do(t, d, requestPlug, block(3), 1); got != responseNACK {
		t.Errorf("response %d", got)
	}
	d.Write32(virtio.RegConfig+48, 0xffff)
	want(1, 3, 8)
	d.Init()
	want(1, 3, 8) // a reset does not unplug
}

func TestBadRegion(t *testing.T) {
	for _, r := range []guestmem.Region{
		{}, {Base: base, Size: BlockSize + 4096}, {Base: base + 4096, Size: BlockSize}, {Base: ^guestmem.Addr(BlockSize - 1), Size: 2 * BlockSize},
	} {
		if _, err := New(Config{Region: r, Backend: &ranges{}}); err == nil {
			t.Errorf("%#x+%#x was accepted", uint64(r.Base), r.Size)
		}
	}
}

func TestStateRoundTrip(t *testing.T) {
	dev := newDevice(t, &ranges{})
	d := virtiotest.New(t, dev, virtiotest.Options{})
	if err := dev.Resize(4*BlockSize, 8*BlockSize); err != nil {
		t.Fatal(err)
	}
	do(t, d, requestPlug, block(1), 3)
	config := d.ReadConfig(0, configSize)
	d.StopWorkers()
	state, err := d.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	dev = newDevice(t, &ranges{})
	d.Move(dev)
	if err := d.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	d.StartWorkers()
	if got := d.ReadConfig(0, configSize); !bytes.Equal(got, config) {
		t.Errorf("configuration % x after a restore, before % x", got, config)
	}
	if _, state := do(t, d, requestState, block(1), 3); state != statePlugged {
		t.Errorf("state %d of what was plugged", state)
	}
	if _, state := do(t, d, requestState, block(4), 4); state != stateUnplugged {
		t.Errorf("state %d of what was not", state)
	}
	good, _ := dev.MarshalState()
	for name, spoil := range map[string]func(p []byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"version":         func(p []byte) []byte { p[0]++; return p },
		"long":            func(p []byte) []byte { return append(p, 0) },
		"half a block":    func(p []byte) []byte { p[1]++; return p },
		"usable beyond":   func(p []byte) []byte { p[13] = 1; return p },
		"requested":       func(p []byte) []byte { p[5] = 1; return p },
		"plugged outside": func(p []byte) []byte { p[stateHeader+1] |= 1; return p },
		"no such block":   func(p []byte) []byte { p[len(p)-1] |= 0x80; return p },
	} {
		if newDevice(t, &ranges{}).UnmarshalState(spoil(bytes.Clone(good))) == nil {
			t.Errorf("%s: the state was accepted", name)
		}
	}
}

// inRegion fails on a release that is not made of usable blocks.
type inRegion struct{ t testing.TB }

func (b inRegion) Release(a guestmem.Addr, n uint64) error {
	if a < base || n == 0 || uint64(a-base)+n > usable*BlockSize || uint64(a)%BlockSize != 0 || n%BlockSize != 0 {
		b.t.Fatalf("%#x+%#x released", uint64(a), n)
	}
	return nil
}

func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		d := newDevice(t, inRegion{t})
		if err := d.Resize(4*BlockSize, usable*BlockSize); err != nil {
			t.Fatal(err)
		}
		return d
	}, virtiotest.FuzzOptions{
		Requests: [][]byte{
			request(requestPlug, block(1), 2), request(requestUnplug, block(1), 2), request(requestState, block(0), usable),
			request(requestUnplugAll, 0, 0), request(requestPlug, block(2), 1),
		},
		Keeps: stateHeader + (blocks+7)/8,
		Host: func(dev virtio.Device, p []byte) {
			// Never to less than is plugged, so that more than is requested is a fault.
			d := dev.(*Device)
			if err := d.Resize(max(uint64(len(p)%(usable+1)), d.count)*BlockSize, usable*BlockSize); err != nil {
				panic(err)
			}
		},
		Check: func(t testing.TB, dev virtio.Device) {
			d := dev.(*Device)
			if n := d.plugged.count(); n != d.count || n*BlockSize > d.requested || !d.plugged.all(usable, 8*uint64(len(d.plugged))-usable, false) {
				t.Fatalf("%d blocks are plugged, %d counted, %#x bytes requested: % x", n, d.count, d.requested, d.plugged)
			}
		},
	})
}
