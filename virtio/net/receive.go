package net

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/govmm/govmm/virtio"
)

const (
	// maxBuffers bounds what goes to Link.Receive at once, less one for the spill: the kernel's IOV_MAX.
	maxBuffers = 1023
	// minRoom is what a receive buffer must hold to be of use: a header, and that of Ethernet.
	minRoom = HeaderSize + 14
	// numBuffers is the offset of num_buffers in the header.
	numBuffers = 10
	// A list of buffers costs for each of them, here and in the kernel, and the largest frame takes 44 of Linux's. So once manySmall frames in a
	// row have fitted into fewBuffers the next one is offered no more, and room of our own behind: what lies there is copied.
	fewBuffers = 2
	manySmall  = 8
	// maxLost is how many frames in a row may be lost to errors before the queue waits for the driver's next kick.
	maxLost = 64
)

// receiver is the state of one receive queue's goroutine.
type receiver struct {
	q     *virtio.Queue
	idle  func()
	count counters

	// chains are those in hand, in the order of the queue; buffers are their device-writable parts, of room bytes in all.
	chains  []*virtio.Chain
	buffers [][]byte
	room    uint64
	// spill takes the first byte of a frame that is beyond all of them: so a frame that was cut off is told from one that
	// just fits.
	spill [1]byte
	// own takes frames while the guest offers too little room for the largest; frame is one in it that waits for more.
	own   []byte
	frame []byte
	// small is how many frames in a row needed no more than fewBuffers.
	small int
	// short is the list of buffers for a frame that own takes, all or the end of.
	short [fewBuffers + 1][]byte
}

// receive delivers frames until there are no receive buffers, or ctx is done. It holds as many chains as the largest
// frame could need, and makes those available again that no frame was put into.
func (d *Device) receive(ctx context.Context, pair int, q *virtio.Queue) error {
	r := &d.receivers[pair]
	if r.q != q {
		r.q, r.idle = q, q.Notify
	}
	defer r.giveBack()
	lost, used := 0, 0
	for ctx.Err() == nil && pair < int(d.pairs.Load()) {
		if err := d.cfg.LimitRX.Wait(ctx, r.idle); err != nil {
			return err
		}
		size, err := d.nextFrame(ctx, pair, r)
		switch {
		case errors.Is(err, errDropped):
			continue
		case errors.Is(err, errLost) && lost < maxLost:
			lost++
			continue
		case errors.Is(err, errLost):
			return nil
		case err != nil:
			return err
		case size == 0:
			return nil // no buffers: the driver kicks when it has some
		}
		lost = 0
		n, err := d.deliver(r, size)
		if err != nil {
			return err
		}
		if used += n; used >= notifyEvery {
			used = 0
			q.Notify()
		}
	}
	return ctx.Err()
}

// Both say that a frame is gone, and all goes on: by our decision, or by an error of the link.
var (
	errDropped = errors.New("frame dropped")
	errLost    = errors.New("frame lost")
)

// nextFrame has the next frame put into the buffers in hand and returns its size, 0 for want of buffers.
func (d *Device) nextFrame(ctx context.Context, pair int, r *receiver) (int, error) {
	if r.frame != nil {
		return d.unstash(ctx, r)
	}
	mergeable := r.q.Features()&FeatureMergeable != 0
	want := d.largest(r.q.Features())
	if err := r.fill(ctx, mergeable, want, maxBuffers); err != nil || len(r.chains) == 0 {
		return 0, err
	}
	if len(r.buffers) <= maxBuffers && (!mergeable || r.room >= want) {
		if r.small >= manySmall && len(r.buffers) > fewBuffers {
			return d.takeSmall(ctx, pair, r)
		}
		all := append(r.buffers, r.spill[:])
		r.buffers = all[:len(r.buffers)] // keeps what append may have allocated
		return d.take(ctx, pair, r, all, int(min(r.room, MaxFrame)))
	}
	// The next frame may need more than there is. It cannot wait in the link, which does not tell how large it is.
	r.short[0] = r.ownRoom()
	n, err := d.take(ctx, pair, r, r.short[:1], MaxFrame)
	if n == 0 {
		return 0, err
	}
	r.frame = r.own[:n]
	return d.unstash(ctx, r)
}

// takeSmall receives a frame that is expected to fit into the first buffers in hand; what does not is copied into the others.
func (d *Device) takeSmall(ctx context.Context, pair int, r *receiver) (int, error) {
	copy(r.short[:], r.buffers[:fewBuffers])
	r.short[fewBuffers] = r.ownRoom()
	room := 0
	for _, b := range r.short[:fewBuffers] {
		room += len(b)
	}
	n, err := d.take(ctx, pair, r, r.short[:], int(min(r.room, MaxFrame)))
	if n > room {
		virtio.CopyTo(r.buffers[fewBuffers:], r.own[:n-room])
	}
	return n, err
}

// ownRoom is room for any frame, and a byte more.
func (r *receiver) ownRoom() []byte {
	if r.own == nil {
		r.own = make([]byte, MaxFrame+1)
	}
	return r.own
}

// take receives a frame of at most limit bytes, and returns its size, 0 when there is none.
func (d *Device) take(ctx context.Context, pair int, r *receiver, buffers [][]byte, limit int) (int, error) {
	n, err := d.link.Receive(ctx, pair, buffers, r.idle)
	switch {
	case err == nil && n >= minRoom && n <= limit && !d.linkDown.Load():
		return n, nil
	case err == nil:
		r.count.drops.Add(1)
		return 0, errDropped
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, ErrNoFrame) || errors.Is(err, ErrClosed):
		return 0, nil
	}
	r.count.drops.Add(1)
	d.complain("a frame for the guest was lost", err)
	return 0, errLost
}

// largest returns the size of the largest frame that the link may have for a driver with these features.
func (d *Device) largest(features uint64) uint64 {
	if features&guestSegments != 0 || d.cfg.MTU == 0 {
		return MaxFrame
	}
	return MaxFrame - maxMTU + uint64(d.cfg.MTU)
}

// fill takes chains until there is room for want bytes, in limit buffers, or no more chain. Without MRG_RXBUF a frame has
// one chain for itself.
func (r *receiver) fill(ctx context.Context, mergeable bool, want uint64, limit int) error {
	for r.room < want && len(r.buffers) < limit && (mergeable || len(r.chains) == 0) {
		if err := ctx.Err(); err != nil { // a driver may offer useless chains for ever
			return err
		}
		c, err := r.q.Pop()
		if c == nil {
			return err
		}
		if c.WritableLen() < minRoom {
			if err := r.q.Push(c, 0); err != nil {
				return err
			}
			continue
		}
		r.chains = append(r.chains, c)
		r.buffers = append(r.buffers, c.Writable()...)
		r.room += c.WritableLen()
	}
	return nil
}

// unstash copies the frame that waits into the guest's buffers, once they are enough, and returns its size. One that
// never finds enough, because the driver has no more descriptors, is dropped.
func (d *Device) unstash(ctx context.Context, r *receiver) (int, error) {
	mergeable := r.q.Features()&FeatureMergeable != 0
	if err := r.fill(ctx, mergeable, uint64(len(r.frame)), MaxFrame); err != nil {
		return 0, err
	}
	switch {
	case r.room >= uint64(len(r.frame)):
		n := virtio.CopyTo(r.buffers, r.frame)
		r.frame = nil
		return n, nil
	case !mergeable && len(r.chains) > 0 || r.q.InFlight() >= int(r.q.Size()):
		r.frame = nil
		r.count.drops.Add(1)
		return 0, errDropped
	}
	return 0, nil
}

// deliver gives the driver the chains that a frame of n bytes lies in, and returns their number.
func (d *Device) deliver(r *receiver, n int) (used int, err error) {
	buffers, left := 0, uint64(n)
	for left > 0 {
		c := r.chains[used]
		used++
		buffers += len(c.Writable())
		left -= min(left, c.WritableLen())
		r.room -= c.WritableLen()
	}
	putAt(r.buffers, numBuffers, uint16(used))
	if err := r.q.PushAll(r.chains[:used], uint64(n)); err != nil {
		return used, err
	}
	if r.small++; buffers > fewBuffers {
		r.small = 0
	}
	r.chains = r.chains[:copy(r.chains, r.chains[used:])]
	r.buffers = r.buffers[:copy(r.buffers, r.buffers[buffers:])]
	d.passed(&r.count, n)
	d.cfg.LimitRX.Charge(n - HeaderSize)
	return used, nil
}

// putAt writes a little-endian value at an offset from the start of the buffers, wherever they are divided.
func putAt(buffers [][]byte, off int, v uint16) {
	if len(buffers) > 0 && len(buffers[0]) >= off+2 {
		binary.LittleEndian.PutUint16(buffers[0][off:], v)
		return
	}
	virtio.CopyTo(virtio.Skip(buffers, off), binary.LittleEndian.AppendUint16(nil, v))
}

// giveBack makes the chains in hand available again, the last one first.
func (r *receiver) giveBack() {
	for i := len(r.chains) - 1; i >= 0; i-- {
		_ = r.q.Unpop(r.chains[i]) // it is the latest
	}
	r.chains, r.buffers, r.room = r.chains[:0], r.buffers[:0], 0
}

// reset forgets the queue, and a frame that waited for it.
func (r *receiver) reset() { r.q, r.idle, r.frame = nil, nil, nil }
