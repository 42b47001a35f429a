package guest_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// inNetwork runs a test on a thread in PID 1's network namespace, whose loopback is up.
func (f *fixture) inNetwork(test func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		fd, err := unix.Open("/proc/"+strconv.Itoa(f.cmd.Process.Pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(f.t, err)
		must(f.t, unix.Setns(fd, unix.CLONE_NEWNET))
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(f.t, err)
		defer unix.Close(s)
		lo, err := unix.NewIfreq("lo")
		must(f.t, err)
		lo.SetUint16(unix.IFF_UP)
		must(f.t, unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo))
		test()
	}()
	<-done
}

// TestListen has PID 1 stand in for servers.
func TestListen(t *testing.T) {
	f := start(t)
	f.inNetwork(func() { f.testListen(t) })
}

func (f *fixture) testListen(t *testing.T) {
	address := netip.MustParseAddr("127.0.0.11")
	m := &agent.Listen{Address: string(address.AsSlice())}
	m.Stream = f.Serve(func(c net.Conn) { connected(c); _, _ = io.Copy(c, c) })
	tcp, err := f.Listen(m)
	must(t, err)
	m.Datagrams = true
	m.Stream = f.Serve(func(c net.Conn) { // answers three datagrams, then breaks the stream
		for range 3 {
			b, err := agent.ReadDatagram(c, nil)
			if err != nil {
				return
			}
			s, p, err := agent.CutSender(b)
			must(t, err)
			must(t, agent.WriteDatagram(c, s.Append(nil, append([]byte(strconv.Itoa(int(s.Port))+" "), p...))))
		}
	})
	udp, err := f.Listen(m)
	must(t, err)
	dial := func(network string, port uint16) net.Conn {
		c, err := net.Dial(network, netip.AddrPortFrom(address, port).String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	c := dial("tcp", tcp)
	_, _ = io.WriteString(c, "hello")
	must(t, c.(*net.TCPConn).CloseWrite())
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("TCP: %q, %v", b, err)
	}
	a, b := dial("udp", udp), dial("udp", udp)
	for i := range 10 {
		for _, c := range []net.Conn{a, b} {
			want := strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port) + " " + strconv.Itoa(i)
			got := make([]byte, 100)
			// A datagram is lost when the stream breaks: whoever asks asks again.
			n := 0
			for try := 0; n == 0 && try < 5; try++ {
				_, _ = io.WriteString(c, strconv.Itoa(i))
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
				n, _ = c.Read(got)
			}
			if string(got[:n]) != want {
				t.Errorf("datagram %d: %q, want %q", i, got[:n], want)
			}
		}
	}
	for _, bad := range []string{"", "12345", string(netip.MustParseAddr("192.0.2.1").AsSlice())} {
		if _, err := f.Listen(&agent.Listen{Address: bad}); err == nil {
			t.Errorf("an address of %d bytes is listened on", len(bad))
		}
	}
}

func TestConnect(t *testing.T) {
	f := start(t)
	f.inNetwork(func() { f.testConnect(t) })
}

func (f *fixture) testConnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			c, err := f.Connect(to)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			want := "words of " + strconv.Itoa(i)
			_, _ = io.WriteString(c, want)
			_ = c.(*net.UnixConn).CloseWrite()
			if b, err := io.ReadAll(c); string(b) != want || err != nil {
				t.Errorf("%q, %v, want %q", b, err, want)
			}
		})
	}
	all.Wait()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed.Close()
	if _, err := f.Connect(closed.Addr().(*net.TCPAddr).AddrPort()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	// They all stay open, until there is no room for one more.
	var open []net.Conn
	for range agent.MaxRelayed {
		c, err := f.Connect(to)
		must(t, err)
		open = append(open, c)
	}
	if _, err := f.Connect(to); err == nil || err.Error() != "too many relayed connections" {
		t.Errorf("one more: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
}

// TestConnectDatagrams has PID 1 carry datagrams to a server that answers each, those without a byte too, and to none.
func TestConnectDatagrams(t *testing.T) {
	f := start(t)
	f.inNetwork(func() {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			f.testConnectDatagrams(t, address)
		}
	})
}

func (f *fixture) testConnectDatagrams(t *testing.T, address string) {
	l, err := net.ListenPacket("udp", address)
	must(t, err)
	to := l.LocalAddr().(*net.UDPAddr).AddrPort()
	answer := func(l net.PacketConn) {
		for b := make([]byte, maxDatagram); ; {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(b[:n], from)
		}
	}
	go answer(l)
	c, err := f.ConnectDatagrams(to)
	must(t, err)
	defer c.Close()
	exchange := func(want string) {
		t.Helper()
		must(t, agent.WriteDatagram(c, []byte(want)))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if b, err := agent.ReadDatagram(c, nil); err != nil || string(b) != want {
			t.Errorf("%d bytes, %v, want %d", len(b), err, len(want))
		}
	}
	for _, n := range []int{5, 0, 1, maxDatagram} {
		exchange(string(make([]byte, n)))
	}
	// While there is no server its absence is an error of the socket's, and the next datagram is not lost by it.
	l.Close()
	must(t, agent.WriteDatagram(c, []byte("lost")))
	time.Sleep(50 * time.Millisecond)
	l, err = net.ListenPacket("udp", to.String())
	must(t, err)
	defer l.Close()
	go answer(l)
	exchange("found")
}

// maxDatagram is the longest datagram of UDP over IPv4.
const maxDatagram = 65507
