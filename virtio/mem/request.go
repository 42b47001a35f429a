package mem

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// Types of requests and of responses, and the answers of STATE (virtio 1.2 §5.15.6).
const (
	requestPlug      = 0
	requestUnplug    = 1
	requestUnplugAll = 2
	requestState     = 3

	responseACK   = 0
	responseNACK  = 1
	responseBusy  = 2
	responseError = 3

	statePlugged   = 0
	stateUnplugged = 1
	stateMixed     = 2
)

// request carries out one request and returns the response. Its error is for a chain that is none.
func (d *Device) request(c *virtio.Chain) ([]byte, error) {
	var p [requestSize]byte
	n := c.ReadHeader(p[:])
	kind := binary.LittleEndian.Uint16(p[:])
	if n < typeSize || n < requestSize && kind != requestUnplugAll {
		return nil, fmt.Errorf("%w: a memory request of %d bytes", virtio.ErrMalformed, n)
	}
	if room := c.WritableLen(); room < responseSize {
		return nil, fmt.Errorf("%w: room for %d bytes of a memory response", virtio.ErrMalformed, room)
	}
	addr, blocks := binary.LittleEndian.Uint64(p[8:]), uint64(binary.LittleEndian.Uint16(p[16:]))
	response, state := d.carryOut(kind, guestmem.Addr(addr), blocks)
	out := make([]byte, responseSize)
	binary.LittleEndian.PutUint16(out, response)
	binary.LittleEndian.PutUint16(out[8:], state)
	if response == responseError {
		if ok, dropped := d.limiter.Allow(); ok {
			d.log.Warn("virtio-mem: a request that cannot be", "type", kind, "address", addr, "blocks", blocks, "suppressed", dropped)
		}
	}
	return out, nil
}

func (d *Device) carryOut(kind uint16, a guestmem.Addr, blocks uint64) (response, state uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind == requestUnplugAll {
		return d.unplugAll(), 0
	}
	first, ok := d.blocksAt(a, blocks)
	if !ok {
		return responseError, 0
	}
	switch kind {
	case requestPlug:
		return d.plug(first, blocks), 0
	case requestUnplug:
		return d.unplug(first, blocks), 0
	case requestState:
		return responseACK, d.state(first, blocks)
	}
	return responseError, 0
}

// blocksAt returns the number of the first of some blocks, all of which lie in the usable part of the region.
func (d *Device) blocksAt(a guestmem.Addr, n uint64) (first uint64, ok bool) {
	off := uint64(a - d.region.Base)
	if a < d.region.Base || off%BlockSize != 0 || n == 0 {
		return 0, false
	}
	first = off / BlockSize
	usable := d.usable / BlockSize
	return first, first < usable && n <= usable-first
}

// plug makes unplugged blocks plugged, unless the guest would have more than the host allows. The host backs them when
// they are touched.
func (d *Device) plug(first, n uint64) uint16 {
	if !d.plugged.all(first, n, false) {
		return responseError
	}
	if (d.count+n)*BlockSize > d.requested {
		return responseNACK
	}
	d.plugged.set(first, n, true)
	d.count += n
	return responseACK
}

// unplug takes plugged blocks away, and gives what backs them to the host.
func (d *Device) unplug(first, n uint64) uint16 {
	if !d.plugged.all(first, n, true) {
		return responseError
	}
	if d.backend.Release(d.region.Base+guestmem.Addr(first*BlockSize), n*BlockSize) != nil {
		return responseBusy
	}
	d.plugged.set(first, n, false)
	d.count -= n
	return responseACK
}

// unplugAll releases unplugged blocks too: a guest that touched them does not keep them.
func (d *Device) unplugAll() uint16 {
	if d.usable > 0 && d.backend.Release(d.region.Base, d.usable) != nil {
		return responseBusy
	}
	clear(d.plugged)
	d.count = 0
	return responseACK
}

func (d *Device) state(first, n uint64) uint16 {
	switch {
	case d.plugged.all(first, n, true):
		return statePlugged
	case d.plugged.all(first, n, false):
		return stateUnplugged
	}
	return stateMixed
}

// bitmap has a bit for each block.
type bitmap []byte

func newBitmap(n uint64) bitmap { return make(bitmap, (n+7)/8) }

// all tells whether n bits from first on are all v.
func (b bitmap) all(first, n uint64, v bool) bool {
	for i := first; i < first+n; i++ {
		if b[i/8]>>(i%8)&1 == 1 != v {
			return false
		}
	}
	return true
}

func (b bitmap) set(first, n uint64, v bool) {
	for i := first; i < first+n; i++ {
		if v {
			b[i/8] |= 1 << (i % 8)
		} else {
			b[i/8] &^= 1 << (i % 8)
		}
	}
}

func (b bitmap) count() (n uint64) {
	for _, v := range b {
		n += uint64(bits.OnesCount8(v))
	}
	return n
}
