package virtio

import (
	"encoding/binary"
	"math"

	"github.com/govmm/govmm/guestmem"
)

// Descriptor flags (virtio 1.2 §2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// maxChainLen bounds the buffers of one chain. A chain should be no longer than its queue (virtio 1.2 §2.7.5.3.1), but
// Linux makes longer ones with indirect tables.
const maxChainLen = MaxQueueSize

// maxFreeChains bounds the chains that a queue keeps for reuse: those of a large network frame. Slices grow to what a
// hostile driver asks for, so that of chains with more than smallChain buffers only a few are kept.
const (
	maxFreeChains = 64
	maxFreeLarge  = 8
	smallChain    = 64
)

type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// Chain is one descriptor chain: the device-readable buffers first, then the device-writable ones (virtio 1.2 §2.7.4).
// The buffers alias guest memory: copy a header out before looking at it. Push recycles the chain, so nothing of it
// may be kept afterwards.
type Chain struct {
	queue      *Queue // whose it is while it is handed out
	head       uint16
	taken      uint16 // nextAvail when it was popped
	readable   [][]byte
	writable   [][]byte
	readTotal  uint64
	writeTotal uint64
	wrote      bool // a device-writable buffer was seen
}

// newChain returns a chain that is marked as handed out. The caller holds q.mu.
func (q *Queue) newChain(head, taken uint16) *Chain {
	var c *Chain
	if n := len(q.free); n > 0 {
		c, q.free = q.free[n-1], q.free[:n-1]
	} else {
		c = &Chain{}
	}
	*c = Chain{queue: q, head: head, taken: taken, readable: c.readable[:0], writable: c.writable[:0]}
	return c
}

// recycle takes a chain back. The caller holds q.mu.
func (q *Queue) recycle(c *Chain) {
	c.queue = nil
	limit := maxFreeChains
	if cap(c.readable)+cap(c.writable) > smallChain {
		limit = maxFreeLarge
	}
	if len(q.free) < limit {
		q.free = append(q.free, c)
	}
}

// Head returns the index of the chain's first descriptor.
func (c *Chain) Head() uint16 { return c.head }

// Readable returns the device-readable buffers.
func (c *Chain) Readable() [][]byte { return c.readable }

// Writable returns the device-writable buffers.
func (c *Chain) Writable() [][]byte { return c.writable }

// AddrOf returns the guest-physical address of one of the chain's buffers.
func (c *Chain) AddrOf(buffer []byte) (guestmem.Addr, bool) { return c.queue.mem.AddrOf(buffer) }

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

// walk follows the chain from c.head: at most as many steps as its table has descriptors, an indirect table at most
// once and never nested, readable before writable, every buffer in RAM, less than 4 GiB in all.
func (q *Queue) walk(c *Chain) error {
	table, index := q.desc, uint32(c.head)
	indirect := false
	for left := len(table) / descSize; ; left-- {
		if uint64(index) >= uint64(len(table)/descSize) {
			return malformed("descriptor %d in a table of %d", index, len(table)/descSize)
		}
		if left == 0 {
			return malformed("descriptor chain is a loop, or longer than %d", min(len(table)/descSize, maxChainLen))
		}
		d := loadDescriptor(table[index*descSize:][:descSize])
		if d.flags&descIndirect != 0 {
			if err := q.checkIndirect(d, indirect); err != nil {
				return err
			}
			t, err := q.mem.Slice(guestmem.Addr(d.addr), d.len)
			if err != nil {
				return malformed("indirect table: %v", err)
			}
			table, index, indirect = t, 0, true
			left = min(len(table)/descSize, maxChainLen) + 1 // one more: this step is not one of the table's
			continue
		}
		if err := q.append(c, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		index = uint32(d.next)
	}
}

// loadDescriptor fetches each field once: the driver may be writing to it.
func loadDescriptor(b []byte) descriptor {
	_ = b[descSize-1]
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
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

// append adds one buffer. An empty one is checked and left out: it carries nothing.
func (q *Queue) append(c *Chain, d descriptor) error {
	b, err := q.mem.Slice(guestmem.Addr(d.addr), d.len)
	if err != nil {
		return malformed("buffer: %v", err)
	}
	writable := d.flags&descWrite != 0
	switch {
	case !writable && c.wrote:
		return malformed("device-readable buffer after a device-writable one")
	case c.readTotal+c.writeTotal+uint64(d.len) > math.MaxUint32:
		return malformed("descriptor chain of 4 GiB or more")
	case len(c.readable)+len(c.writable) == maxChainLen:
		return malformed("descriptor chain of more than %d buffers", maxChainLen)
	}
	c.wrote = writable
	switch {
	case d.len == 0:
	case writable:
		c.writable = append(c.writable, b)
		c.writeTotal += uint64(d.len)
	default:
		c.readable = append(c.readable, b)
		c.readTotal += uint64(d.len)
	}
	return nil
}
