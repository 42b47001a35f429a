package monitor

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// stream is a drain between a connection and a pipe.
func stream(t *testing.T) (d *drain, guest net.Conn, out *os.File) {
	t.Helper()
	guest, monitor := net.Pipe()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close(); out.Close(); w.Close() })
	d = &drain{}
	d.start(func() (net.Conn, error) { return monitor, nil }, w)
	return d, guest, out
}

func awaited(d *drain, n uint64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		d.await(n)
		close(done)
	}()
	return done
}

func returns(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("await does not return: %s", what)
	}
}

// TestDrain waits for what a process wrote while a child of its keeps the stream open.
func TestDrain(t *testing.T) {
	d, guest, out := stream(t)
	returns(t, "nothing to wait for", awaited(d, 0))
	done := awaited(d, 6)
	for _, part := range []string{"abc", "def"} {
		select {
		case <-done:
			t.Fatal("await returned before all bytes were written")
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := guest.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	returns(t, "all bytes were written", done)
	b := make([]byte, 6)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "abcdef" {
		t.Errorf("read %q, %v", b, err)
	}
	done = awaited(d, 100)
	guest.Close()
	returns(t, "the stream has ended", done)
}

// TestDrainReaderGone has the host's reader go away: the guest's writer gets an error, and nobody waits.
func TestDrainReaderGone(t *testing.T) {
	d, guest, out := stream(t)
	out.Close()
	done := awaited(d, 100)
	for range 100 {
		if _, err := guest.Write([]byte("x")); err != nil {
			break
		}
	}
	if _, err := guest.Write([]byte("x")); err == nil {
		t.Error("the guest can still write")
	}
	returns(t, "the reader is gone", done)
}

// TestLastWords finds the reason in what a hostile guest printed, and nothing that a terminal obeys.
func TestLastWords(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "the guest reset itself"},
		{"hello\nKernel panic - not syncing", "the guest reset itself"},
		{"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\nmore\n", "the guest kernel panicked: Attempted to kill init!"},
		{"Kernel panic - not syncing: \x1b[2Jgone\x07\x00\xff\n", "the guest kernel panicked: [2Jgone"},
		{"Kernel panic - not syncing: " + strings.Repeat("x", 1000), "the guest kernel panicked: " + strings.Repeat("x", 200)},
		{strings.Repeat("noise\n", 1e5) + "Kernel panic - not syncing: end\n", "the guest kernel panicked: end"},
	} {
		var l lastWords
		for text := tt.text; text != ""; {
			n := min(len(text), 1000)
			if wrote, err := l.Write([]byte(text[:n])); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
			text = text[n:]
		}
		if got := l.reason(); got != tt.want || len(l.buf) > lastWordsSize {
			t.Errorf("%.40q: reason %q with %d bytes kept, want %q", tt.text, got, len(l.buf), tt.want)
		}
	}
}

func TestExecTable(t *testing.T) {
	var e execTable
	if a, b := e.newID(), e.newID(); a == b {
		t.Errorf("two execs are %s", a)
	}
	gone := e.add(7)
	e.add(8)
	e.add(7)()
	if got := e.list(); len(got) != 2 {
		t.Errorf("processes %v", got)
	}
	gone()
	if got := e.list(); len(got) != 1 || got[0] != 8 {
		t.Errorf("processes %v", got)
	}
}

// TestCardSlots leaves slots to network devices as far as disks do.
func TestCardSlots(t *testing.T) {
	for others, want := range map[int]int{3: maxCards, 9: 8, 10: 7, 17: 0, 19: 0} {
		if got := cardSlots(others); got != want {
			t.Errorf("%d slots beside %d devices, want %d", got, others, want)
		}
	}
}
