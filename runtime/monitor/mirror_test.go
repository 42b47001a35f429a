package monitor

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// served has serve stand for a server in the guest.
func served(serve func(net.Conn)) func(netip.AddrPort) (net.Conn, error) {
	return func(netip.AddrPort) (net.Conn, error) {
		guest, host := net.Pipe()
		go serve(guest)
		return host, nil
	}
}

// mirrored returns talks, until the test ends, and where to dial.
func mirrored(t *testing.T, connect func(netip.AddrPort) (net.Conn, error)) (*talks, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := newTalks(slog.New(slog.DiscardHandler), l.(*net.UDPConn), connect)
	go m.receive()
	t.Cleanup(func() { l.Close() })
	return m, l.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dialUDP(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// TestTalks has more clients than are remembered: each gets its own answers, and one that was forgotten begins anew.
func TestTalks(t *testing.T) {
	m, to := mirrored(t, served(func(c net.Conn) { _, _ = io.Copy(c, c) }))
	var clients []net.Conn
	for range 2*maxTalks + 10 {
		c := dialUDP(t, to)
		defer c.Close()
		clients = append(clients, c)
	}
	for round := range 2 {
		for i, c := range clients {
			want := strconv.Itoa(round) + " " + strconv.Itoa(i)
			_, _ = io.WriteString(c, want)
			b := make([]byte, 100)
			if n, err := c.Read(b); err != nil || string(b[:n]) != want {
				t.Fatalf("client %d: %q, %v", i, b[:n], err)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.talks) != maxTalks {
		t.Errorf("%d talks, want %d", len(m.talks), maxTalks)
	}
}

// TestTalksHeldUp has a guest that does not even answer whether there is a server.
func TestTalksHeldUp(t *testing.T) {
	answered := make(chan struct{})
	m, to := mirrored(t, func(netip.AddrPort) (net.Conn, error) {
		<-answered
		return nil, net.ErrClosed
	})
	held := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.held
	}
	for range 2 * maxHeld {
		c := dialUDP(t, to)
		_, _ = io.WriteString(c, "question")
		c.Close()
		if n := held(); n > maxHeld {
			t.Fatalf("%d talks are held up", n)
		}
	}
	close(answered)
	for deadline := time.Now().Add(10 * time.Second); held() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d talks are left", held())
		}
	}
}

// TestTalksUntaken has a guest that takes nothing, and one that says what is no datagram.
func TestTalksUntaken(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"silent":   func(net.Conn) {},
		"nonsense": func(c net.Conn) { _, _ = c.Write([]byte{0xff, 0xff, 0xff, 0xff}) },
		"gone":     func(c net.Conn) { c.Close() },
	} {
		before := runtime.NumGoroutine()
		m, to := mirrored(t, served(serve))
		for range 4 * maxTalks {
			c := dialUDP(t, to)
			for range 2 * maxUnsent {
				_ = agent.WriteDatagram(c, []byte("question"))
			}
			c.Close()
		}
		m.mu.Lock()
		if len(m.talks) > maxTalks {
			t.Errorf("%s: %d talks", name, len(m.talks))
		}
		m.mu.Unlock()
		m.socket.Close()
		for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			m.mu.Lock()
			for _, talk := range m.talks {
				talk.close()
			}
			m.mu.Unlock()
			if time.Now().After(deadline) {
				t.Fatalf("%s: goroutines are left", name)
			}
		}
	}
}
