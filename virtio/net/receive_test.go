package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// post offers receive buffers of the given sizes, a chain each.
func (g *guest) post(sizes ...int) (all []*virtiotest.Request) {
	g.T.Helper()
	for _, n := range sizes {
		all = append(all, g.Queue(0).Add(nil, n))
	}
	return all
}

// collect puts the frames together from chains that came back, as a driver with MRG_RXBUF does.
func (g *guest) collect(done []*virtiotest.Request) (frames [][]byte) {
	g.T.Helper()
	for len(done) > 0 {
		p := bytes.Clone(done[0].Bytes())
		n := int(binary.LittleEndian.Uint16(p[numBuffers:]))
		if n < 1 || n > len(done) {
			g.T.Fatalf("num_buffers is %d, %d chains came back", n, len(done))
		}
		for i, r := range done[1:n] {
			if before := done[i]; int(before.Written) != len(before.Room()) {
				g.T.Errorf("a chain that is not the last of its frame has %d of %d bytes", before.Written, len(before.Room()))
			}
			p = append(p, r.Bytes()...)
		}
		frames = append(frames, p[HeaderSize:])
		done = done[n:]
	}
	return frames
}

func same(t *testing.T, got [][]byte, want ...[]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("frame %d is of %d bytes, want one of %d, or differs", i, len(got[i]), len(want[i]))
		}
	}
}

func repeat(n, times int) []int {
	out := make([]int, times)
	for i := range out {
		out[i] = n
	}
	return out
}

// TestMergeable spreads frames over as many chains as they need, none of which carries two.
func TestMergeable(t *testing.T) {
	for _, opts := range []virtiotest.Options{
		{Manual: true}, {Manual: true, Direct: true}, {Manual: true, Without: virtio.FeatureEventIdx},
	} {
		for _, size := range []int{200, 1526, 1527, 4096, 60000} {
			t.Run(fmt.Sprint(opts.Direct, opts.Without, size), func(t *testing.T) {
				g := newGuest(t, Config{}, opts)
				want := [][]byte{frame(60, 1), frame(size-HeaderSize, 2), frame(size-HeaderSize+1, 3), frame(9000, 4)}
				for _, f := range want {
					g.link.arrive(0, f)
				}
				g.post(repeat(size, 64)[:min(64, 1+4<<20/size/2)]...)
				for round := 0; round < 100; round++ {
					g.Queue(0).Kick()
				}
				same(t, g.collect(g.Queue(0).Reap()), want...)
				if s := g.dev.Stats(); s.RX.Frames != 4 || s.RX.Bytes != uint64(60+2*size-2*HeaderSize+1+9000) || s.RX.Drops != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// TestSmallFrames: after many small frames the link is offered few buffers, a larger one arrives whole all the same, and then it is offered all
// again.
func TestSmallFrames(t *testing.T) {
	const buffer = 2000
	const few, largest = fewBuffers*buffer - HeaderSize, MaxFrame - HeaderSize
	for _, size := range []int{few, few + 1, few + buffer, few + buffer + 1, 9000, largest, largest + 1} {
		g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
		g.post(repeat(buffer, 40)...)
		// receive returns how many buffers the link was offered for the frame behind this one.
		receive := func(f []byte) int {
			g.link.arrive(0, f)
			g.Queue(0).Kick()
			done := g.Queue(0).Reap()
			g.post(repeat(buffer, len(done))...)
			if len(f) > largest {
				same(t, g.collect(done))
			} else {
				same(t, g.collect(done), f)
			}
			return g.link.offered
		}
		for i := range manySmall - 1 {
			if n := receive(frame(few-i, i)); n <= fewBuffers+1 {
				t.Fatalf("%d buffers are offered after %d small frames", n, i+1)
			}
		}
		if n := receive(frame(60, 1)); n != fewBuffers+1 {
			t.Errorf("%d buffers are offered after many small frames", n)
		}
		short := size == few || size > largest // the one that is dropped says nothing
		if n := receive(frame(size, 3)); (n == fewBuffers+1) != short {
			t.Errorf("%d buffers are offered after a frame of %d bytes", n, size)
		}
	}
}

// TestLargestFrame fits into what is held, and nothing larger reaches the guest.
func TestLargestFrame(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	g.link.arrive(0, frame(MaxFrame-HeaderSize+1, 1))
	g.link.arrive(0, frame(MaxFrame-HeaderSize, 2))
	g.post(repeat(4096, 20)...)
	g.Queue(0).Kick()
	same(t, g.collect(g.Queue(0).Reap()), frame(MaxFrame-HeaderSize, 2))
	if s := g.dev.Stats(); s.RX.Drops != 1 || s.RX.Frames != 1 {
		t.Errorf("%+v", s)
	}
}

// TestOneChainPerFrame: without MRG_RXBUF a frame that does not fit is dropped, one that just fits is not.
func TestOneChainPerFrame(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, Without: FeatureMergeable})
	g.link.arrive(0, frame(1514, 1))
	g.link.arrive(0, frame(1515, 2))
	g.link.arrive(0, frame(60, 3))
	g.post(1526, 1526, 1526)
	g.Queue(0).Kick()
	same(t, g.collect(g.Queue(0).Reap()), frame(1514, 1), frame(60, 3))
	if s := g.dev.Stats(); s.RX.Drops != 1 {
		t.Errorf("%+v", s)
	}
}

// TestShortage: with less room than the largest frame needs, frames wait for more, and none is lost.
func TestShortage(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	q := g.Queue(0)
	g.link.arrive(0, frame(3000, 1))
	g.link.arrive(0, frame(100, 2))
	g.link.arrive(0, frame(50000, 3))
	g.post(1000, 1000)
	q.Kick()
	if got := q.Reap(); len(got) != 0 {
		t.Fatalf("%d chains for a frame that does not fit into all of them", len(got))
	}
	g.post(1000, 1000)
	q.Kick()
	same(t, g.collect(q.Reap()), frame(3000, 1))
	g.post(1000)
	q.Kick()
	same(t, g.collect(q.Reap()), frame(100, 2))
	for range 5 {
		g.post(repeat(1000, 10)...)
		q.Kick()
	}
	g.post(repeat(1000, 1)...)
	q.Kick()
	same(t, g.collect(q.Reap()), frame(50000, 3))
	if s := g.dev.Stats(); s.RX.Drops != 0 || s.RX.Frames != 3 {
		t.Errorf("%+v", s)
	}
}

// TestHopeless: a frame that can never fit, because all of the queue's descriptors are there, makes way for others.
func TestHopeless(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, QueueSize: 8})
	g.link.arrive(0, frame(50000, 1))
	g.link.arrive(0, frame(70, 2))
	g.post(repeat(1526, 8)...)
	g.Queue(0).Kick()
	same(t, g.collect(g.Queue(0).Reap()), frame(70, 2))
	if s := g.dev.Stats(); s.RX.Drops != 1 {
		t.Errorf("%+v", s)
	}
}

// TestOddBuffers: a header over several buffers, many tiny ones, chains without room.
func TestOddBuffers(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, RAM: 16 << 20})
	q := g.Queue(0)
	useless := g.post(1, minRoom-1)
	q.Add(nil, 5, 6, 1, 1, 100)
	for range 12 {
		q.Add(nil, repeat(7, 1000)...)
	}
	q.Add(nil, repeat(64, 1023)...)
	g.link.arrive(0, frame(80, 1))
	g.link.arrive(0, frame(9000, 2))
	g.link.arrive(0, frame(20000, 3))
	q.Kick()
	done := q.Reap()
	for i, r := range useless {
		if done[i] != r || r.Written != 0 {
			t.Errorf("chain %d without room for a header: %d bytes", i, r.Written)
		}
	}
	same(t, g.collect(done[2:]), frame(80, 1), frame(9000, 2), frame(20000, 3))
	if g.Status()&virtio.StatusNeedsReset != 0 {
		t.Error("the device needs a reset")
	}
}

// TestErrorsOfTheLink: frames are lost one by one, the guest hears of nothing, and the queue goes on.
func TestErrorsOfTheLink(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	for range maxLost {
		g.link.recvErr = append(g.link.recvErr, errTest)
	}
	g.link.arrive(0, frame(100, 1))
	g.link.arrive(0, frame(14, 1)[:13]) // less than an Ethernet header
	g.link.arrive(0, frame(101, 2))
	g.post(repeat(4096, 20)...)
	g.Queue(0).Kick()
	same(t, g.collect(g.Queue(0).Reap()), frame(100, 1), frame(101, 2))
	if s := g.dev.Stats(); s.RX.Drops != maxLost+1 || g.Status()&virtio.StatusNeedsReset != 0 {
		t.Errorf("%+v, status %#x", s, g.Status())
	}
	for range 10 * maxLost {
		g.link.recvErr = append(g.link.recvErr, errTest)
	}
	g.Queue(0).ForceKick() // does not go on for ever
	g.link.recvErr = []error{ErrClosed}
	g.Queue(0).ForceKick()
	if g.Status()&virtio.StatusNeedsReset != 0 {
		t.Error("the device needs a reset")
	}
}

// TestWaiting: a frame that comes while the queue waits reaches the guest with one interrupt, without a kick; buffers that
// come while it waits are used.
func TestWaiting(t *testing.T) {
	g := newGuest(t, Config{Link: &fakeLink{features: allOffloads, wait: true}}, virtiotest.Options{})
	q := g.Queue(0)
	g.post(repeat(2048, 40)...)
	q.Kick()
	for i := range 100 {
		before := g.Interrupts()
		g.link.arrive(0, frame(100+i, i))
		g.WaitInterrupt()
		same(t, g.collect(q.Reap()), frame(100+i, i))
		if n := g.Interrupts() - before; n != 1 {
			t.Errorf("frame %d: %d interrupts", i, n)
		}
		g.post(2048)
	}
}

// TestBatch: the guest hears of many frames that are there already with few interrupts, if it asks for one each time.
func TestBatch(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, Acks: true, Without: virtio.FeatureEventIdx})
	for i := range 50 {
		g.link.arrive(0, frame(60, i))
	}
	g.post(repeat(4096, 64)...)
	g.Queue(0).Kick()
	if got := len(g.Queue(0).Reap()); got != 50 || g.Interrupts() != 2 {
		t.Errorf("%d frames, %d interrupts, want 50 and one for each %d", got, g.Interrupts(), notifyEvery)
	}
}

// TestResetWhileWaiting: a reset ends the wait, and what arrives later does not touch guest memory.
func TestResetWhileWaiting(t *testing.T) {
	link := &fakeLink{features: allOffloads, wait: true}
	g := newGuest(t, Config{Link: link}, virtiotest.Options{})
	for round := range 50 {
		g.post(repeat(4096, 20)...)
		g.Queue(0).Kick()
		if round%2 == 0 {
			virtiotest.Eventually(t, "the queue to wait", func() bool {
				link.mu.Lock()
				defer link.mu.Unlock()
				return link.waiting[0] != nil
			})
		}
		g.Write32(virtio.RegStatus, 0)
		image := bytes.Clone(g.RAM)
		link.arrive(0, frame(500, round))
		time.Sleep(time.Millisecond)
		if !bytes.Equal(image, g.RAM) {
			t.Fatal("guest memory changed after a reset")
		}
		g.Init()
		g.post(repeat(4096, 20)...)
		g.Queue(0).Kick()
		g.WaitInterrupt()
		same(t, g.collect(g.Queue(0).Reap()), frame(500, round))
	}
}

// TestEndlessDriver: a driver that makes available again whatever comes back, as fast as it comes, cannot keep a queue from
// stopping: each step of what may go on for ever looks at the context.
func TestEndlessDriver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	link := &fakeLink{features: allOffloads}
	g := newGuest(t, Config{Link: link}, virtiotest.Options{Manual: true})
	g.Queue(0).ForceKick() // acquaints the receiver with its queue
	for range 5 {
		g.Queue(1).Add([][]byte{make([]byte, 100)})
		g.Queue(2).Add([][]byte{{classRX, cmdAllMulticast}, {1}}, 1)
	}
	for i := 1; i <= 2; i++ {
		ctx, cancel := context.WithCancel(t.Context())
		link.acted = cancel
		if err := g.MMIO.Serve(ctx, i); err != nil {
			t.Error(err)
		}
		if n := g.Queue(i).UsedIdx(); n != 1 {
			t.Errorf("queue %d: %d chains after the context had ended in the first", i, n)
		}
	}
	cancel()
	g.post(1, 1, 1) // useless
	if err := g.dev.receivers[0].fill(ctx, true, MaxFrame, maxBuffers); !errors.Is(err, context.Canceled) || g.Queue(0).UsedIdx() != 0 {
		t.Errorf("%v, %d chains came back", err, g.Queue(0).UsedIdx())
	}
}

// TestNothingHeld: when Serve has ended, chains in hand are available again, so that a snapshot succeeds, and the restored
// device uses them.
func TestNothingHeld(t *testing.T) {
	g := newGuest(t, Config{Link: &fakeLink{features: allOffloads, wait: true}}, virtiotest.Options{})
	g.post(repeat(4096, 30)...)
	g.Queue(0).Kick()
	g.link.arrive(0, frame(100, 1))
	g.WaitInterrupt()
	g.StopWorkers()
	state, err := g.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	link := &fakeLink{features: allOffloads, wait: true}
	g.Move(newDevice(t, Config{Link: link}))
	if err := g.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	g.StartWorkers()
	link.arrive(0, frame(70000-5000, 2))
	virtiotest.Eventually(t, "the second frame", func() bool { return g.Queue(0).UsedIdx() > 1 })
	same(t, g.collect(g.Queue(0).Reap()), frame(100, 1), frame(65000, 2))
}

// TestLinkDown: nothing moves, and the driver is told.
func TestLinkDown(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	status := func() uint16 { return binary.LittleEndian.Uint16(g.ReadConfig(configStatus, 2)) }
	if status() != statusLinkUp {
		t.Errorf("status %#x", status())
	}
	g.post(repeat(4096, 40)...)
	for range 3 * maxLost {
		g.link.arrive(0, frame(100, 1))
	}
	g.dev.SetLink(false)
	g.dev.SetLink(false)
	if g.Interrupts() != 1 || g.Ack() != virtio.InterruptConfig || status() != 0 {
		t.Errorf("%d interrupts, status %#x", g.Interrupts(), status())
	}
	g.Queue(0).Kick()
	g.Queue(1).Do([][]byte{make([]byte, HeaderSize), frame(60, 1)})
	s := g.dev.Stats()
	if s.RX != (Counters{Drops: 3 * maxLost}) || s.TX != (Counters{Drops: 1}) || len(g.Queue(0).Reap()) != 0 {
		t.Errorf("%+v", s)
	}
	g.dev.SetLink(true)
	g.link.arrive(0, frame(100, 2))
	g.Queue(0).ForceKick()
	same(t, g.collect(g.Queue(0).Reap()), frame(100, 2))
}

// TestReceiveDoesNotAllocate: neither for small frames nor for those over many chains.
func TestReceiveDoesNotAllocate(t *testing.T) {
	for _, size := range []int{60, 65000} {
		r := newRaw(t)
		r.post(queueSize)
		r.link.n = size + HeaderSize
		n := testing.AllocsPerRun(20, func() {
			r.link.frames = 10
			if err := r.MMIO.Serve(context.Background(), 0); err != nil {
				t.Fatal(err)
			}
			if got := r.reap(); got < 10 {
				t.Fatalf("%d chains came back for 10 frames", got)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations for 10 frames of %d bytes", n, size)
		}
	}
}

// raw is a driver that recycles its receive buffers without an allocation.
type raw struct {
	*virtiotest.Driver
	link *countdown
	used uint16
}

// countdown is a link that has some frames left, of n bytes.
type countdown struct {
	fakeLink
	frames, n int
}

func (l *countdown) Receive(_ context.Context, _ int, _ [][]byte, idle func()) (int, error) {
	if l.frames == 0 {
		idle()
		return 0, ErrNoFrame
	}
	l.frames--
	return l.n, nil
}

func (l *countdown) Send(context.Context, int, [][]byte) error { return nil }

const rawBuffer = 1536

func newRaw(t testing.TB) *raw {
	link := &countdown{fakeLink: fakeLink{features: allOffloads}}
	d := virtiotest.New(t, newDevice(t, Config{Link: link}), virtiotest.Options{Manual: true, QueueSize: queueSize})
	return &raw{Driver: d, link: link}
}

func (r *raw) post(n int) {
	for i := range n {
		r.Queue(0).SetDescriptor(uint16(i), virtiotest.Descriptor{
			Addr: uint64(virtiotest.RAMBase) + 2<<20 + uint64(i)*rawBuffer, Len: rawBuffer, Flags: virtiotest.DescWrite,
		})
		r.Queue(0).Publish(uint16(i))
	}
}

// reap offers what came back again.
func (r *raw) reap() int {
	n := 0
	for ; r.used != r.Queue(0).UsedIdx(); r.used++ {
		r.Queue(0).Publish(r.used % queueSize)
		n++
	}
	return n
}
