package vsock

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// TestFloods: whatever the guest sends while it offers no receive buffers, the host keeps only so much of it, and every
// packet is answered in the end.
func TestFloods(t *testing.T) {
	const maxConns = 20
	d, err := New(Config{GuestCID: guestCID, MaxConns: maxConns})
	if err != nil {
		t.Fatal(err)
	}
	listen(t, d)
	g := newGuest(t, d, 0)
	q := g.Queue(txQueue)
	sent, done, answers := uint32(0), 0, 0
	fill := func() {
		for range int(q.Size) - (int(sent) - done) {
			sent++
			h := header{
				srcCID: guestCID, dstCID: HostCID, srcPort: sent, dstPort: 1000, kind: typeStream, op: opRequest,
			}
			var raw [headerSize]byte
			h.put(&raw)
			q.Add([][]byte{raw[:]})
		}
		q.Kick()
	}
	virtiotest.Eventually(t, "the queue to stand still", func() bool {
		fill()
		done += len(q.Reap())
		return done >= maxConns+maxReplies
	})
	time.Sleep(20 * time.Millisecond)
	done += len(q.Reap())
	d.mu.Lock()
	conns, replies, ready := len(d.conns), len(d.replies), len(d.ready)
	d.mu.Unlock()
	if conns != maxConns || replies != maxReplies || ready != maxConns {
		t.Errorf("%d connections, %d replies, %d ready", conns, replies, ready)
	}
	if done != maxConns+maxReplies {
		t.Errorf("%d packets were taken", done)
	}
	g.post(32)
	for answers < int(sent) {
		g.recv()
		answers++
		done += len(q.Reap())
	}
	virtiotest.Eventually(t, "all packets to be taken", func() bool {
		done += len(q.Reap())
		return done == int(sent)
	})
	g.quiet()
}

// TestConnectAndReset: connections that come and go while no receive buffers are there leave nothing behind.
func TestConnectAndReset(t *testing.T) {
	d := newDevice(t)
	l := listen(t, d)
	g := newGuest(t, d, 0)
	for range backlog + maxReplies/2 {
		g.send(header{op: opRequest})
		g.send(header{op: opRst})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) != 0 || len(d.ready) != 0 || len(d.replies) > maxReplies {
		t.Errorf("%d connections, %d ready, %d replies", len(d.conns), len(d.ready), len(d.replies))
	}
	if n := len(l.(*listener).conns); n != backlog {
		t.Errorf("%d wait for Accept", n)
	}
}

// pipe returns the two ends of a stream that goes through the guest's rings.
func pipe(t testing.TB, d *Device, l net.Listener) (c1, c2 net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	c1, err := d.Dial(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	return c1, <-accepted
}

func TestNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d := newDevice(t)
		newRelay(t, d, 16)
		l := listen(t, d)
		c1, c2 = pipe(t, d, l)
		return c1, c2, func() { _ = d.Close() }, nil
	})
}

// TestBulk moves 100 MB into the guest and out again.
func TestBulk(t *testing.T) {
	size := 100 << 20
	if testing.Short() {
		size >>= 4
	}
	d := newDevice(t)
	newRelay(t, d, 48)
	in, out := pipe(t, d, listen(t, d))
	want, got := sha256.New(), sha256.New()
	go func() {
		src := rand.New(rand.NewPCG(1, 2))
		buf := make([]byte, 256<<10)
		for left := size; left > 0; {
			p := buf[:min(left, 1+src.IntN(len(buf)))]
			for i := range p {
				p[i] = byte(i * left)
			}
			want.Write(p)
			if _, err := in.Write(p); err != nil {
				t.Error(err)
				break
			}
			left -= len(p)
		}
		_ = in.(*Conn).CloseWrite()
	}()
	start := time.Now()
	n, err := io.Copy(got, out)
	if n != int64(size) || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		t.Error("not the bytes that were written")
	}
	t.Logf("%d MB in %v", size>>20, time.Since(start))
}

// fuzzConns is the limit of connections that the fuzzer has.
const fuzzConns = 4

// FuzzDevice: the first byte of Host's input says what the host does. Its own oracle: what the guest makes the host hold
// stays within the bounds.
func FuzzDevice(f *testing.F) {
	var requests [][]byte
	add := func(h header, payload string) {
		h.srcCID, h.dstCID, h.srcPort, h.dstPort, h.kind = guestCID, HostCID, 5000, 1000, typeStream
		h.length, h.bufAlloc = uint32(len(payload)), 4096
		var raw [headerSize]byte
		h.put(&raw)
		requests = append(requests, append(raw[:], payload...))
	}
	for op := uint16(0); op <= opCreditRequest+1; op++ {
		add(header{op: op, flags: 3}, "payload")
	}
	h := header{op: opRequest, srcCID: guestCID, dstCID: HostCID, srcPort: 5001, dstPort: 1001, kind: typeStream}
	var raw [headerSize]byte
	h.put(&raw)
	requests = append(requests, raw[:]) // nobody listens
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		d, err := New(Config{GuestCID: guestCID, MaxConns: fuzzConns})
		if err != nil {
			t.Fatal(err)
		}
		listen(t, d)
		t.Cleanup(func() { _ = d.Close() })
		return d
	}, virtiotest.FuzzOptions{Requests: requests, Host: fuzzHost, Check: checkBounds})
}

func checkBounds(t testing.TB, dev virtio.Device) {
	d := dev.(*Device)
	conns := d.all()
	for _, c := range conns {
		c.mu.Lock()
		n, size := c.rx.n, len(c.rx.buf)
		c.mu.Unlock()
		if n > bufAlloc || size > bufAlloc {
			t.Fatalf("%d bytes received, in %d", n, size)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(conns) > fuzzConns || len(d.replies) > maxReplies || len(d.ready) > fuzzConns {
		t.Fatalf("%d connections, %d replies, %d have a turn", len(conns), len(d.replies), len(d.ready))
	}
}

func fuzzHost(dev virtio.Device, p []byte) {
	d := dev.(*Device)
	if len(p) == 0 {
		return
	}
	for _, c := range d.all() {
		_ = c.SetDeadline(time.Unix(1, 0))
		switch p[0] % 6 {
		case 0:
			_ = c.Close()
		case 1:
			_ = c.CloseWrite()
		case 2:
			_ = c.CloseRead()
		case 3:
			c.Abort()
		case 4:
			_ = c.SetDeadline(time.Time{})
			c.mu.Lock()
			c.out = p // a Write that does not wait
			c.d.enqueue(c)
			c.mu.Unlock()
		case 5:
			c.mu.Lock()
			ready := c.rx.n > 0
			c.mu.Unlock()
			_ = c.SetDeadline(time.Time{})
			if ready {
				_, _ = c.Read(make([]byte, len(p)))
			}
		}
	}
	if p[0]%6 == 4 && len(d.all()) < 8 {
		_, _ = d.newOutgoing(uint32(p[0]))
	}
}
