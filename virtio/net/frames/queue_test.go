package frames

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

// socketPair makes two ends of a socket that keeps frames apart.
func socketPair(t *testing.T) (a, b *Queue) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Queue
	for i, fd := range fds {
		if ends[i], err = New(fd, "socket"); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

// TestSocket: frames arrive whole and apart, one that is too large is seen to be, and a full socket is waited for.
func TestSocket(t *testing.T) {
	a, b := socketPair(t)
	ctx := context.Background()
	for _, f := range []string{"one frame", "another"} {
		if err := a.Send([][]byte{[]byte(f[:3]), nil, []byte(f[3:])}); err != nil {
			t.Fatal(err)
		}
	}
	head, tail := make([]byte, 4), make([]byte, 5)
	if n, err := b.Receive(ctx, [][]byte{head, tail}, func() {}); n != 9 || err != nil || string(head)+string(tail) != "one frame" {
		t.Errorf("%q%q, %d, %v", head, tail, n, err)
	}
	if n, err := b.Receive(ctx, [][]byte{head}, func() {}); n != 4 || err != nil {
		t.Errorf("a frame that does not fit: %d, %v", n, err)
	}
	sent := 0
	frame := make([]byte, 9000)
	for ; sent < 1e6; sent++ {
		if err := a.Send([][]byte{frame}); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := a.SendWithin(50*time.Millisecond, [][]byte{frame}); !errors.Is(err, unix.EAGAIN) || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("a full socket: %v after %v", err, time.Since(begin))
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		for range sent {
			_, _ = b.Receive(ctx, [][]byte{make([]byte, 9001)}, func() {})
		}
	}()
	if err := a.SendWithin(10*time.Second, [][]byte{bytes.Repeat([]byte{1}, 9000)}); err != nil {
		t.Errorf("a socket that is emptied: %v", err)
	}
}

// TestOtherEnd: the end of the other side is no signal, and no error of the system's.
func TestOtherEnd(t *testing.T) {
	a, b := socketPair(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, send := range []func() error{
		func() error { return a.Send([][]byte{{1}}) },
		func() error { return a.SendWithin(time.Second, [][]byte{{1}}) },
	} {
		if err := send(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	if n, err := a.Receive(context.Background(), [][]byte{make([]byte, 10)}, func() {}); n != 0 || err != nil {
		t.Errorf("received %d, %v", n, err)
	}
}
