package monitor

import (
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

// echoServer stands for docker's name server until the test ends.
func echoServer(t *testing.T) {
	t.Helper()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := nameServer
	nameServer = l.LocalAddr().(*net.UDPAddr).AddrPort()
	t.Cleanup(func() {
		l.Close()
		nameServer = before
	})
	go func() {
		for b := make([]byte, 100); ; {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(b[:n], from)
		}
	}()
}

// asker is sender n of the guest.
func asker(n int) agent.Sender {
	return agent.Sender{Address: string(netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()), Port: uint16(n)}
}

func relayedQuestions(t *testing.T) (guest net.Conn, ended chan struct{}) {
	t.Helper()
	guest, host := net.Pipe()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		defer host.Close()
		(&relays{log: slog.New(slog.DiscardHandler)}).relayQuestions(host)
	}()
	t.Cleanup(func() { guest.Close() })
	_ = guest.SetDeadline(time.Now().Add(20 * time.Second))
	return guest, ended
}

// TestRelayQuestions asks for more clients than are remembered: each gets its own answer.
func TestRelayQuestions(t *testing.T) {
	echoServer(t)
	guest, ended := relayedQuestions(t)
	for n := range 3 * maxAsking {
		want := asker(n)
		question := []byte{byte(n), byte(n >> 8)}
		if err := agent.WriteDatagram(guest, want.Append(nil, question)); err != nil {
			t.Fatal(err)
		}
		b, err := agent.ReadDatagram(guest, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s, p, err := agent.CutSender(b); s != want || string(p) != string(question) || err != nil {
			t.Fatalf("question %d: %v, %x, %v", n, s, p, err)
		}
	}
	if err := agent.WriteDatagram(guest, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// TestRelayQuestionsUnread has a guest ask without end and take no answers.
func TestRelayQuestionsUnread(t *testing.T) {
	echoServer(t)
	before := runtime.NumGoroutine()
	guest, ended := relayedQuestions(t)
	for n := range 20 * maxAsking {
		if err := agent.WriteDatagram(guest, asker(n).Append(nil, []byte("q"))); err != nil {
			t.Fatal(err)
		}
		if more := runtime.NumGoroutine() - before; more > maxAnswering+10 {
			t.Fatalf("%d goroutines after %d questions", more, n)
		}
	}
	guest.Close()
	<-ended
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("goroutines are left")
		}
	}
}
