package virtiotest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
)

// kick has every queue served, the notified one first, and checks what that did.
func (z *fuzzer) kick(i int) {
	if len(z.queues) == 0 {
		return
	}
	defer z.watch(fmt.Sprintf("Serve(%d)", i)).Stop()
	before := bytes.Clone(z.d.RAM)
	may, certain := z.writable()
	used := make([]uint16, len(z.queues))
	for k := range z.queues {
		used[k] = z.usedIdx(k)
	}
	for k := range z.queues {
		if err := z.d.MMIO.Serve(context.Background(), (i+k)%len(z.queues)); err != nil {
			z.t.Fatalf("Serve: %v", err)
		}
	}
	if z.opts.Settle != nil {
		z.opts.Settle(z.dev)
	}
	if z.opts.Check != nil {
		z.opts.Check(z.t, z.dev)
	}
	if !certain {
		return
	}
	z.checkWrites(before, may)
	for k := range z.queues {
		if p := z.load(uint64(z.queues[k].AvailRing)+2, 2); p != nil && z.ready(k) {
			z.checkUsed(k, used[k], binary.LittleEndian.Uint16(p)-used[k])
		}
	}
}

// watch ends the run when the watchdog that it returns is not stopped in time.
func (z *fuzzer) watch(what string) *time.Timer {
	hung := z.opts.hung
	if hung == nil {
		hung = func() { panic(what + " does not end") }
	}
	return time.AfterFunc(cmp.Or(z.opts.timeout, fuzzTimeout), hung)
}

// checkWrites compares guest memory with what it was before: only bytes that may change did.
func (z *fuzzer) checkWrites(before []byte, may []bool) {
	for a := range before {
		if before[a] != z.d.RAM[a] && !may[a] {
			z.t.Fatalf("the device changed guest memory at %#x, which is in no device-writable buffer", int(RAMBase)+a)
		}
	}
}

// checkUsed looks at the entries of queue k's used ring from old on: no more of them than were due, and none that says
// that more was written than its chain has room for.
func (z *fuzzer) checkUsed(k int, old, due uint16) {
	q := &z.queues[k]
	got := z.usedIdx(k) - old
	if got > due || got > q.Size {
		z.t.Fatalf("queue %d: %d chains came back of %d, in a queue of %d", k, got, due, q.Size)
	}
	for i := range got {
		p := z.load(uint64(q.UsedRing)+4+8*uint64((old+i)%q.Size), 8)
		if p == nil {
			return // a used ring outside of RAM: the queue has another one
		}
		head, written := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
		if room := z.room(q, head); uint64(written) > room {
			z.t.Fatalf("queue %d: %d bytes written to chain %d, which has room for %d", k, written, head, room)
		}
	}
}

// room returns the number of device-writable bytes of a chain, walking no further than the device may.
func (z *fuzzer) room(q *fuzzQueue, head uint32) (total uint64) {
	table, i, n := uint64(q.DescTable), uint64(head), uint64(q.Size)
	for range 2 * virtio.MaxQueueSize {
		p := z.load(table+16*i, 16)
		if p == nil || i >= n {
			break
		}
		flags, size := binary.LittleEndian.Uint16(p[12:]), binary.LittleEndian.Uint32(p[8:])
		switch {
		case flags&DescIndirect != 0:
			table, i, n = binary.LittleEndian.Uint64(p), 0, uint64(size/16)
			continue
		case flags&DescWrite != 0:
			total += uint64(size)
		}
		if flags&DescNext == 0 {
			break
		}
		i = uint64(binary.LittleEndian.Uint16(p[14:]))
	}
	return total
}

func (z *fuzzer) usedIdx(k int) uint16 {
	if p := z.load(uint64(z.queues[k].UsedRing)+2, 2); p != nil && z.ready(k) {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// cover counts by how many ranges each byte of RAM is covered: first the differences, then, after sum, the counts.
type cover [fuzzRAM + 1]int32

func (c *cover) add(addr guestmem.Addr, n uint64) {
	if a := uint64(addr - RAMBase); a < fuzzRAM {
		c[a]++
		c[a+min(n, fuzzRAM-a)]--
	}
}

func (c *cover) sum() {
	for i := range fuzzRAM {
		c[i+1] += c[i]
	}
}

// writable returns which bytes the device may write: used rings and all that any descriptor calls writable. It is not
// certain of that when writable ranges lie over what says so, or rings over one another.
func (z *fuzzer) writable() (may []bool, certain bool) {
	var rings, tables, used, buffers cover
	for k := range z.queues {
		if q := &z.queues[k]; z.ready(k) {
			rings.add(q.DescTable, 16*uint64(q.Size))
			rings.add(q.AvailRing, 6+2*uint64(q.Size))
			rings.add(q.UsedRing, 6+8*uint64(q.Size))
			used.add(q.UsedRing, 6+8*uint64(q.Size))
			z.scan(z.load(uint64(q.DescTable), 16*int(q.Size)), &buffers, &tables)
		}
	}
	rings.sum()
	tables.sum()
	used.sum()
	buffers.sum()
	may, certain = make([]bool, fuzzRAM), true
	for a := range may {
		may[a] = buffers[a] > 0 || used[a] > 0
		overlap := buffers[a] > 0 && (rings[a] > 0 || tables[a] > 0) || used[a] > 0 && tables[a] > 0
		certain = certain && rings[a] <= 1 && !overlap
	}
	return may, certain
}

// scan collects the writable buffers of a descriptor table, and with tables not nil those of the indirect tables.
func (z *fuzzer) scan(p []byte, buffers, tables *cover) {
	for ; len(p) >= 16; p = p[16:] {
		addr, n := guestmem.Addr(binary.LittleEndian.Uint64(p)), binary.LittleEndian.Uint32(p[8:])
		flags := binary.LittleEndian.Uint16(p[12:])
		if flags&DescIndirect != 0 && tables != nil && n <= fuzzRAM {
			tables.add(addr, uint64(n))
			z.scan(z.load(uint64(addr), int(n)), buffers, nil)
		}
		if flags&DescWrite != 0 {
			buffers.add(addr, uint64(n))
		}
	}
}
