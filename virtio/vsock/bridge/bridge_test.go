package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio/vsock"
)

var _ Guest = (*vsock.Device)(nil)

// fakeGuest answers on port 7 with an echo, after it has read everything; it opens streams with call.
type fakeGuest struct {
	mu    sync.Mutex
	serve func(port uint32, accept func() (net.Conn, error))
	dials []uint32
}

// half is a net.Conn with half-close, of a Unix socket pair in disguise, as the device's are.
type half struct{ *net.UnixConn }

func (h half) LocalAddr() net.Addr { return fakeAddr("2:1073741824") }

type fakeAddr string

func (a fakeAddr) Network() string { return "vsock" }
func (a fakeAddr) String() string  { return string(a) }

func (g *fakeGuest) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials = append(g.dials, port)
	if port != 7 {
		return nil, errors.New("refused")
	}
	host, guest := pair()
	go func() {
		p, _ := io.ReadAll(guest)
		_, _ = guest.Write(append([]byte("echo "), p...))
		_ = guest.Close()
	}()
	return half{host}, nil
}

func (g *fakeGuest) ServeUnclaimed(serve func(port uint32, accept func() (net.Conn, error))) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve = serve
}

// call opens a stream to the host's port; nil when it is refused.
func (g *fakeGuest) call(port uint32) *net.UnixConn {
	g.mu.Lock()
	serve := g.serve
	g.mu.Unlock()
	answer := make(chan *net.UnixConn, 1)
	go func() {
		serve(port, func() (net.Conn, error) {
			host, guest := pair()
			answer <- guest
			return half{host}, nil
		})
		answer <- nil
	}()
	return <-answer
}

func pair() (a, b *net.UnixConn) {
	dir, err := os.MkdirTemp("", "pair")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		panic(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		panic(err)
	}
	other, err := l.Accept()
	if err != nil {
		panic(err)
	}
	return c.(*net.UnixConn), other.(*net.UnixConn)
}

func newBridge(t *testing.T) (*Bridge, *fakeGuest, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	g := &fakeGuest{}
	b, err := New(path, g, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b, g, path
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

func TestHostToGuest(t *testing.T) {
	for _, tt := range []struct{ name, send, want string }{
		{"echo", "CONNECT 7\nhello", "OK 1073741824\necho hello"},
		{"refused", "CONNECT 8\nhello", ""},
		{"no port", "CONNECT\n", ""},
		{"not a port", "CONNECT 4294967296\n", ""},
		{"another word", "connect 7\n", ""},
		{"endless line", strings.Repeat("x", 1000), ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, path := newBridge(t)
			c := dial(t, path)
			_, _ = io.WriteString(c, tt.send)
			_ = c.CloseWrite()
			// A client that is hung up on with bytes unread gets a reset.
			if got, _ := io.ReadAll(c); string(got) != tt.want {
				t.Errorf("read %q, want %q", got, tt.want)
			}
		})
	}
}

func TestGuestToHost(t *testing.T) {
	_, g, path := newBridge(t)
	if g.call(52) != nil {
		t.Error("a port without a socket was accepted")
	}
	l, err := net.Listen("unix", path+"_52")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	guest := g.call(52)
	if guest == nil {
		t.Fatal("refused")
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(guest, "from the guest")
	_ = guest.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "from the guest" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, _ = io.WriteString(c, "from the host")
	_ = c.Close()
	if got, err := io.ReadAll(guest); string(got) != "from the host" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	b, g, path := newBridge(t)
	c := dial(t, path)
	_, _ = io.WriteString(c, "CONNECT 7\n")
	ok := make([]byte, len("OK 1073741824\n"))
	if _, err := io.ReadFull(c, ok); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Log(err) // an end or a reset, but not the deadline
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the stream is still open")
		}
	}
	if g.serve != nil {
		t.Error("the guest's streams still come")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is left: %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(path, &fakeGuest{}, nil); err == nil {
		t.Error("took over a socket that is in use")
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	b, err := New(path, &fakeGuest{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(path, &fakeGuest{}, nil); err == nil {
		t.Error("replaced a file")
	}
}
