package tap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	stdnet "net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// station is a device on a TAP in a namespace of its own, and its driver. Frames that it gets are the other station's
// to send: so the kernels' stacks in two namespaces speak to each other through two devices.
type station struct {
	*virtiotest.Driver
	ns   *namespace
	tap  *TAP
	dev  *net.Device
	ip   string
	ip6  string
	room []int // of a receive buffer

	frames, segments, partial int          // received: all, those of more than a packet, those without a checksum
	types                     map[byte]int // by type of segmentation
}

const (
	driverQueue = 256
	numBuffers  = 10
)

// newStation gives the TAP the address ip with the given MTU.
func newStation(t testing.TB, n, mtu int, without uint64, room []int) *station {
	t.Helper()
	s := &station{ns: newNamespace(t), ip: fmt.Sprintf("10.8.0.%d", n), ip6: fmt.Sprintf("fd00::%d", n), room: room}
	s.types = map[byte]int{}
	s.tap = s.ns.tap(t, Config{Name: "gv%d"})
	s.ns.ip(t, fmt.Sprintf("link set gv0 mtu %d address 02:00:00:00:00:0%d addrgenmode none", mtu, n))
	s.ns.ip(t, "link set lo up")
	dev, err := net.New(net.Config{Link: s.tap, MAC: net.MAC{2, 0, 0, 0, 1, byte(n)}, MTU: uint16(mtu)})
	if err != nil {
		t.Fatal(err)
	}
	s.dev = dev
	s.Driver = virtiotest.New(t, dev, virtiotest.Options{RAM: 40 << 20, QueueSize: driverQueue, Without: without})
	for range driverQueue {
		s.Queue(0).Add(nil, room...)
	}
	s.Queue(0).Kick()
	s.ns.ip(t, "addr add "+s.ip+"/24 dev gv0")
	s.ns.ip(t, "link set gv0 up")
	s.ns.ip(t, "addr add "+s.ip6+"/64 dev gv0 nodad")
	return s
}

// received returns the frames, with their headers, that came since the last call.
func (s *station) received(mtu int) (frames [][]byte) {
	done := s.Queue(0).Reap()
	for range done {
		s.Queue(0).Add(nil, s.room...)
	}
	for len(done) > 0 {
		n := int(binary.LittleEndian.Uint16(done[0].Bytes()[numBuffers:]))
		if n == 0 || n > len(done) {
			s.T.Fatalf("num_buffers is %d, %d chains are there", n, len(done))
		}
		var p []byte
		for _, r := range done[:n] {
			p = append(p, r.Bytes()...)
		}
		done = done[n:]
		s.frames++
		s.types[p[1]&^unix.VIRTIO_NET_HDR_GSO_ECN]++
		if p[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			s.partial++
		}
		if p[1] != unix.VIRTIO_NET_HDR_GSO_NONE && len(p) > mtu+net.HeaderSize+14 {
			s.segments++
		}
		binary.LittleEndian.PutUint16(p[numBuffers:], 0)
		frames = append(frames, p)
	}
	s.Queue(0).Kick()
	return frames
}

func (s *station) send(frames [][]byte) {
	q := s.Queue(1)
	for _, f := range frames {
		for q.Reap(); q.InFlight() == driverQueue; q.Reap() {
			q.Kick()
			time.Sleep(10 * time.Microsecond)
		}
		q.Add([][]byte{f})
	}
	if q.Reap(); len(frames) > 0 {
		q.Kick()
	}
}

// connect moves frames between two stations until the function that it returns is called.
func connect(t testing.TB, mtu int, a, b *station) (stop func()) {
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !over.Load() {
			fromA, fromB := a.received(mtu), b.received(mtu)
			b.send(fromA)
			a.send(fromB)
			if len(fromA)+len(fromB) == 0 {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	return func() { over.Store(true); <-ended } // may be called twice
}

// transfer sends n bytes by TCP to another station's address, and compares their hashes.
func transfer(t *testing.T, from, to *station, address string, n int64) {
	t.Helper()
	var l stdnet.Listener
	var err error
	to.ns.do(func() { l, err = stdnet.Listen("tcp", stdnet.JoinHostPort(address, "0")) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sum := make(chan []byte, 1)
	go func() {
		h := sha256.New()
		defer func() { sum <- h.Sum(nil) }()
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := io.Copy(h, c); err != nil {
			t.Error(err)
		}
	}()
	var c stdnet.Conn
	from.ns.do(func() { c, err = stdnet.DialTimeout("tcp", l.Addr().String(), 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	h := sha256.New()
	source := io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), n)
	if _, err := io.CopyBuffer(struct{ io.Writer }{c}, io.TeeReader(source, h), make([]byte, 256<<10)); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if got := <-sum; !bytes.Equal(got, h.Sum(nil)) {
		t.Error("other bytes arrive than were sent")
	}
}

// TestTCP moves a stream each way, with all that can be negotiated and without.
func TestTCP(t *testing.T) {
	const guestSegments = net.FeatureGuestTSO4 | net.FeatureGuestTSO6 | net.FeatureGuestECN | net.FeatureGuestUFO |
		net.FeatureGuestUSO4 | net.FeatureGuestUSO6
	for _, tt := range []struct {
		name              string
		mtu               int
		without           uint64
		room              []int
		segments, partial bool
	}{
		{"everything", 1500, 0, []int{1536}, true, true},
		{"pages", 1500, 0, []int{4096}, true, true},
		{"large MTU", 9000, 0, []int{4096}, true, true},
		{"no EVENT_IDX", 1500, virtio.FeatureEventIdx, []int{4096}, true, true},
		{"one chain per frame", 1500, net.FeatureMergeable, slices.Repeat([]int{4096}, 17), true, true},
		{"small buffers", 1500, guestSegments, []int{1700}, false, true},
		{"small chains", 1500, guestSegments | net.FeatureMergeable, []int{12, 1514}, false, true},
		{"no offloads", 9000, net.OffloadFeatures, []int{2048}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newStation(t, 1, tt.mtu, tt.without, tt.room), newStation(t, 2, tt.mtu, tt.without, tt.room)
			stop := connect(t, tt.mtu, a, b)
			transfer(t, a, b, b.ip, 8<<20)
			transfer(t, b, a, a.ip6, 8<<20)
			stop()
			for s, kind := range map[*station]byte{a: unix.VIRTIO_NET_HDR_GSO_TCPV4, b: unix.VIRTIO_NET_HDR_GSO_TCPV6} {
				if s.types[kind] > 0 != tt.segments || s.segments > 0 != tt.segments || s.partial > 0 != tt.partial || s.Status()&virtio.StatusNeedsReset != 0 {
					t.Errorf("%d frames of several packets, %d without checksum, of %d", s.segments, s.partial, s.frames)
				}
				if st := s.dev.Stats(); st.RX.Drops != 0 || st.TX.Drops != 0 || st.RX.Frames < uint64(s.frames) {
					t.Errorf("%+v", st)
				}
			}
		})
	}
}

// TestDatagrams: datagrams that are larger than a packet arrive whole, and several sent at once pass as one frame where the
// kernel has that.
func TestDatagrams(t *testing.T) {
	a, b := newStation(t, 1, 1500, 0, []int{4096}), newStation(t, 2, 1500, 0, []int{4096})
	stop := connect(t, 1500, a, b)
	defer stop()
	var in stdnet.PacketConn
	var out *stdnet.UDPConn
	var err error
	b.ns.do(func() { in, err = stdnet.ListenPacket("udp4", b.ip+":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	a.ns.do(func() { out, err = stdnet.DialUDP("udp4", nil, in.LocalAddr().(*stdnet.UDPAddr)) })
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_ = in.SetDeadline(time.Now().Add(virtiotest.Timeout))
	p := make([]byte, 65536)
	receive := func(want []byte) {
		t.Helper()
		if n, _, err := in.ReadFrom(p); err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("%d bytes, %v, want %d", n, err, len(want))
		}
	}
	data := make([]byte, 60000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for _, n := range []int{1, 1472, 1473, 20000, 60000} {
		if _, err := out.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		receive(data[:n])
	}
	segment := make([]byte, unix.CmsgSpace(2)) // struct cmsghdr, and the size of a datagram
	binary.NativeEndian.PutUint64(segment, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(segment[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(segment[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(segment[16:], 1000)
	if _, _, err := out.WriteMsgUDP(data[:20500], segment, nil); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 20500; i += 1000 {
		receive(data[i:min(i+1000, 20500)])
	}
	stop()
	const udpSegments = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	if has := a.tap.Features()&net.FeatureGuestUSO4 != 0; has != (a.types[udpSegments] > 0) {
		t.Errorf("USO is offered: %v; frames by type of segmentation: %v", has, a.types)
	}
	if st := b.dev.Stats(); st.TX.Drops != 0 {
		t.Errorf("%+v", st)
	}
}

// TestHostileHeaders: the kernel refuses what makes no sense, the device counts it and works on.
func TestHostileHeaders(t *testing.T) {
	s := newStation(t, 1, 1500, 0, []int{4096})
	q := s.Queue(1)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		p := make([]byte, net.HeaderSize+14+rng.IntN(3000))
		for k := range p {
			p[k] = byte(rng.Uint32())
		}
		p[0] &= 7
		if i%2 == 0 { // a type of segmentation that exists
			p[1] = []byte{0, 1, 3, 4, 5, 0x81}[rng.IntN(6)]
		}
		if i%3 == 0 {
			binary.LittleEndian.PutUint16(p[6:], uint16(rng.IntN(100))) // csum_start inside
		}
		copy(p[net.HeaderSize:], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45})
		q.Do([][]byte{p[:7], p[7:]})
	}
	st := s.dev.Stats()
	if st.TX.Drops == 0 || st.TX.Frames == 0 || st.TX.Drops+st.TX.Frames != 3000 || s.Status()&virtio.StatusNeedsReset != 0 {
		t.Errorf("%+v, status %#x", st, s.Status())
	}
	receives(t, s.ns, newTap(t, s.ns)) // the kernel lives, too
}

func newTap(t *testing.T, ns *namespace) *TAP { return ns.tap(t, Config{Name: "other%d"}) }

// TestResetUnderLoad resets the device again and again while frames arrive: guest memory does not change afterwards.
func TestResetUnderLoad(t *testing.T) {
	s := newStation(t, 1, 1500, 0, []int{4096})
	stop := s.flood(t)
	defer stop()
	for range 30 {
		time.Sleep(2 * time.Millisecond)
		s.Write32(virtio.RegStatus, 0)
		image := bytes.Clone(s.RAM)
		time.Sleep(time.Millisecond)
		if !bytes.Equal(image, s.RAM) {
			t.Fatal("guest memory changed after a reset")
		}
		s.Init()
		for range driverQueue {
			s.Queue(0).Add(nil, 4096)
		}
		s.Queue(0).Kick()
	}
	before := s.dev.Stats().RX.Frames
	virtiotest.Eventually(t, "frames after the resets", func() bool {
		s.received(1500)
		return s.dev.Stats().RX.Frames > before+1000
	})
}

// flood has the kernel send datagrams as fast as it can, until stop is called.
func (s *station) flood(t *testing.T) (stop func()) {
	t.Helper()
	s.ns.ip(t, "neigh add 10.8.0.9 lladdr 02:00:00:00:01:01 dev gv0")
	var c stdnet.Conn
	var err error
	s.ns.do(func() { c, err = stdnet.Dial("udp4", "10.8.0.9:9") })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for p := make([]byte, 1000); ; {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	}()
	return func() { _ = c.Close(); <-ended }
}

// TestFlood: under a flood from the host the guest's own frames are sent, the control queue answers, and the device stops when it
// is told to.
func TestFlood(t *testing.T) {
	s := newStation(t, 1, 1500, 0, []int{2048})
	defer s.flood(t)()
	frame := append(make([]byte, net.HeaderSize), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xb5, 0, 0)
	sent, end := uint64(0), time.Now().Add(virtiotest.Timeout)
	for i := 0; i < 200 || s.dev.Stats().RX.Frames < 2000; i++ {
		if time.Now().After(end) {
			t.Fatalf("the flood does not arrive: %+v", s.dev.Stats())
		}
		sent++
		s.received(1500)
		s.Queue(1).Do([][]byte{frame})
		if r := s.Queue(2).Do([][]byte{{0, 1}, {byte(i & 1)}}, 1); r.Bytes()[0] != 0 {
			t.Fatalf("command: answer %d", r.Bytes()[0])
		}
	}
	began := time.Now()
	s.StopWorkers()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the queues stop after %v", d)
	}
	if st := s.dev.Stats(); st.TX.Frames != sent {
		t.Errorf("%+v", st)
	}
}

// TestLinkDownThenUp: no byte passes without the cable, and a stream goes on when it is back.
func TestLinkDownThenUp(t *testing.T) {
	a, b := newStation(t, 1, 1500, 0, []int{4096}), newStation(t, 2, 1500, 0, []int{4096})
	a.dev.SetLink(false)
	time.Sleep(10 * time.Millisecond) // for a frame of IPv6's that was on its way
	before := a.dev.Stats().RX.Frames
	stop := connect(t, 1500, a, b)
	defer stop()
	dropped := a.dev.Stats().RX.Drops // the kernel asks for the other's address three times, a second apart, and then gives up
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		transfer(t, a, b, b.ip, 1<<20)
	}()
	virtiotest.Eventually(t, "a frame to be dropped", func() bool { return a.dev.Stats().RX.Drops > dropped })
	if st := a.dev.Stats(); st.RX.Frames != before || b.dev.Stats().TX.Frames > before {
		t.Errorf("frames passed without a link: %+v, %d had before", st, before)
	}
	a.dev.SetLink(true)
	<-ended
}
