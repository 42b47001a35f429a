package virtio

import (
	"math"

	"github.com/govmm/govmm/guestmem"
)

// Descriptor flags (virtio 1.2 §2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// Chain is one descriptor chain: the device-readable buffers first, then the device-writable ones (virtio 1.2 §2.7.4).
// The buffers alias guest memory: copy a header out before looking at it.
type Chain struct {
	head       uint16
	readable   [][]byte
	writable   [][]byte
	readTotal  uint64
	writeTotal uint64
}

// Head returns the index of the chain's first descriptor.
func (c *Chain) Head() uint16 { return c.head }

// Readable returns the device-readable buffers.
func (c *Chain) Readable() [][]byte { return c.readable }

// Writable returns the device-writable buffers.
func (c *Chain) Writable() [][]byte { return c.writable }

// ReadableLen returns the number of device-readable bytes.
func (c *Chain) ReadableLen() uint64 { return c.readTotal }

// WritableLen returns the number of device-writable bytes.
func (c *Chain) WritableLen() uint64 { return c.writeTotal }

// ReadHeader copies the first len(p) device-readable bytes to p, the one time that they are fetched, and returns the
// number copied; it is short when the chain is.
func (c *Chain) ReadHeader(p []byte) int { return CopyFrom(p, c.readable) }

// Write copies p to the start of the device-writable part and returns the number of bytes that found room.
func (c *Chain) Write(p []byte) int { return CopyTo(c.writable, p) }

// CopyFrom fills dst from the buffers and returns the number of bytes copied.
func CopyFrom(dst []byte, buffers [][]byte) int {
	n := 0
	for _, b := range buffers {
		n += copy(dst[n:], b)
		if n == len(dst) {
			break
		}
	}
	return n
}

// CopyTo spreads src over the buffers and returns the number of bytes copied.
func CopyTo(buffers [][]byte, src []byte) int {
	n := 0
	for _, b := range buffers {
		n += copy(b, src[n:])
		if n == len(src) {
			break
		}
	}
	return n
}

// Skip returns the buffers without their first n bytes.
func Skip(buffers [][]byte, n int) [][]byte {
	for len(buffers) > 0 && n >= len(buffers[0]) {
		n -= len(buffers[0])
		buffers = buffers[1:]
	}
	if n == 0 || len(buffers) == 0 {
		return buffers
	}
	out := append([][]byte(nil), buffers...)
	out[0] = out[0][n:]
	return out
}

// walk follows the chain from head: at most as many steps as the queue has descriptors, an indirect table at most once
// and never nested, readable before writable, every buffer in RAM, less than 4 GiB in all.
func (q *Queue) walk(head uint16) (*Chain, error) {
	c := &Chain{head: head}
	table, size, index := q.desc, q.cfg.Size, head
	indirect := false
	for steps := uint32(0); ; steps++ {
		if index >= size {
			return nil, malformed("descriptor %d in a table of %d", index, size)
		}
		if steps >= uint32(size) {
			return nil, malformed("descriptor chain longer than its table of %d: a loop", size)
		}
		off := uint32(index) * descSize
		d := descriptor{
			addr:  uint64(table.Load32(off)) | uint64(table.Load32(off+4))<<32,
			len:   table.Load32(off + 8),
			flags: table.Load16(off + 12),
			next:  table.Load16(off + 14),
		}
		if d.flags&descIndirect != 0 {
			if err := q.checkIndirect(d, indirect); err != nil {
				return nil, err
			}
			t, err := q.mem.Ring(guestmem.Addr(d.addr), d.len)
			if err != nil {
				return nil, malformed("indirect table: %v", err)
			}
			// virtio 1.2 §2.7.5.3.1: the table may be longer than the queue, but the chain may not.
			table, size, index, indirect = t, uint16(min(d.len/descSize, math.MaxUint16)), 0, true
			steps = math.MaxUint32 // 0 after the increment
			continue
		}
		if err := q.append(c, d); err != nil {
			return nil, err
		}
		if len(c.readable)+len(c.writable) > int(MaxQueueSize) {
			return nil, malformed("descriptor chain of more than %d buffers", MaxQueueSize)
		}
		if d.flags&descNext == 0 {
			return c, nil
		}
		index = d.next
	}
}

func (q *Queue) checkIndirect(d descriptor, nested bool) error {
	switch {
	case q.features&FeatureIndirectDesc == 0:
		return malformed("indirect descriptor without the feature")
	case nested:
		return malformed("nested indirect table")
	case d.flags&descNext != 0:
		return malformed("indirect descriptor with a next one")
	case d.len == 0 || d.len%descSize != 0:
		return malformed("indirect table of %d bytes", d.len)
	}
	return nil
}

func (q *Queue) append(c *Chain, d descriptor) error {
	b, err := q.mem.Slice(guestmem.Addr(d.addr), d.len)
	if err != nil {
		return malformed("buffer: %v", err)
	}
	if d.flags&descWrite != 0 {
		c.writable = append(c.writable, b)
		c.writeTotal += uint64(d.len)
	} else {
		if len(c.writable) > 0 {
			return malformed("device-readable buffer after a device-writable one")
		}
		c.readable = append(c.readable, b)
		c.readTotal += uint64(d.len)
	}
	if c.readTotal+c.writeTotal > math.MaxUint32 {
		return malformed("descriptor chain of 4 GiB or more")
	}
	return nil
}
