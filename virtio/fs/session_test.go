package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

func TestSession(t *testing.T) {
	renewed := 0
	var m *memFS
	g := newGuest(t, func(c *Config) {
		c.Renew = func() Handler {
			renewed++
			m = newMemFS("new")
			return fuse.NewProtocolServer(m, m.options())
		}
	})
	errno, _ := g.do(16, opDestroy, 0)
	g.expect("DESTROY", 0, errno)
	errno, _ = g.do(144, opLookup, 1, "a")
	g.expect("LOOKUP after DESTROY", syscall.EIO, errno)
	g.init(0)
	errno, _ = g.do(144, opLookup, 1, "new")
	g.expect("LOOKUP in the next session", 0, errno)
	g.Init()
	errno, _ = g.do(144, opLookup, 1, "new")
	g.expect("LOOKUP before INIT", syscall.EIO, errno)
	g.init(0)
	if renewed != 2 {
		t.Errorf("renewed %d times", renewed)
	}
}

// TestLockWaiter: a lock waiter on a queue does not keep the holder from unlocking through the same queue. Contract: L5.
func TestLockWaiter(t *testing.T) {
	g := newGuest(t)
	errno, _ := g.do(16, 32, 2, lockArgs(1, 1)...)
	g.expect("SETLK", 0, errno)
	waiter := g.add(16, opSetLkW, 2, lockArgs(2, 1)...)
	time.Sleep(10 * time.Millisecond)
	if g.Queue(1).Reap(); waiter.Done {
		t.Fatal("two owners have the lock")
	}
	errno, _ = g.do(16, 32, 2, lockArgs(1, 2)...)
	g.expect("unlock", 0, errno)
	errno, _ = g.wait(waiter)
	g.expect("SETLKW", 0, errno)
}

// TestManyWaiters: as many waits as the queue has places but one, and the queue still moves. Contract: L5.
func TestManyWaiters(t *testing.T) {
	g := newGuest(t)
	g.do(16, 32, 2, lockArgs(1, 1)...)
	var waiters []*virtiotest.Request
	for range 63 { // the driver's queue has 64 places
		waiters = append(waiters, g.add(16, opSetLkW, 2, lockArgs(2, 1)...))
	}
	errno, _ := g.do(16, 32, 2, lockArgs(1, 2)...)
	g.expect("unlock", 0, errno)
	for _, w := range waiters {
		errno, _ := g.wait(w)
		g.expect("SETLKW", 0, errno)
	}
}

// TestSlowWorkers: requests that hang in the host's kernel do not stop those behind them, however many they are. Contract: L5.
func TestSlowWorkers(t *testing.T) {
	g := newGuest(t)
	var syncs []*virtiotest.Request
	for range maxWorkers + 10 {
		syncs = append(syncs, g.add(16, 20, 2, zeros(16)))
	}
	for range maxWorkers {
		<-g.fs.entered
	}
	errno, _ := g.do(144, opLookup, 1, "a")
	g.expect("LOOKUP", 0, errno)
	if n := len(g.fs.entered); n != 0 {
		t.Errorf("%d more than %d are in the server", n, maxWorkers)
	}
	close(g.fs.block)
	for _, r := range syncs {
		errno, _ := g.wait(r)
		g.expect("FSYNC", 0, errno)
	}
}

// Contract: L3.
func TestInterrupt(t *testing.T) {
	for queue := range 2 { // hiprio and request queue
		g := newGuest(t)
		g.do(16, 32, 2, lockArgs(1, 1)...)
		for range 50 { // the interrupt comes before the server knows of the request, or after
			waiter := g.add(16, opSetLkW, 2, lockArgs(2, 1)...)
			virtiotest.Eventually(t, "the device to have the request", func() bool {
				g.dev.mu.Lock()
				defer g.dev.mu.Unlock()
				return g.dev.inflight[g.unique] != nil
			})
			r := g.raw(queue, 16*queue, message(opInterrupt, g.unique|1, 0, g.unique))
			errno, _ := g.wait(waiter)
			g.expect("SETLKW", syscall.EINTR, errno)
			if g.Queue(queue).Wait(r); r.Written != 0 {
				t.Errorf("INTERRUPT is answered: % x", r.Bytes())
			}
		}
	}
	g := newGuest(t)
	r := g.raw(1, 16, message(opInterrupt, 9, 0, uint64(8)))
	errno, _ := g.wait(r)
	g.expect("INTERRUPT of nothing", syscall.EAGAIN, errno)
}

func TestSameUnique(t *testing.T) {
	g := newGuest(t)
	g.do(16, 32, 2, lockArgs(1, 1)...)
	first := g.raw(1, 16, message(opSetLkW, 8, 2, lockArgs(2, 1)...))
	second := g.raw(1, 16, message(opSetLkW, 8, 2, lockArgs(3, 1)...))
	errno, _ := g.wait(second)
	g.expect("the second", syscall.EINVAL, errno)
	g.do(16, 32, 2, lockArgs(1, 2)...)
	errno, _ = g.wait(first)
	g.expect("the first", 0, errno)
}

// TestReset: a reset ends waits, nothing touches guest memory after it, and everything works again. Contract: L6.
func TestReset(t *testing.T) {
	g := newGuest(t)
	for range 20 {
		g.do(16, 32, 2, lockArgs(1, 1)...)
		for range 10 {
			g.add(16, opSetLkW, 2, lockArgs(2, 1)...)
		}
		g.add(16, 20, 2, zeros(16))
		virtiotest.Eventually(t, "the requests to be under way", func() bool { return g.dev.busy.Load() == 11 })
		<-g.fs.entered
		reset := make(chan struct{})
		go func() {
			defer close(reset)
			g.Write32(virtio.RegStatus, 0)
		}()
		select {
		case <-reset:
		case <-time.After(virtiotest.Timeout):
			t.Fatal("the reset waits for requests that wait for ever")
		}
		before := bytes.Clone(g.RAM)
		if runtime.Gosched(); !bytes.Equal(before, g.RAM) {
			t.Fatal("guest memory changed after a reset")
		}
		g.Init()
		if n := len(g.dev.underWay()); n != 0 {
			t.Fatalf("%d requests are under way after a reset", n)
		}
		g.init(0)
		g.fs.files[0].holder = 0
	}
}

func TestPanic(t *testing.T) {
	var logged bytes.Buffer
	g := newGuest(t, func(c *Config) {
		c.Server = panicking{c.Server}
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	errno, _ := g.do(144, opLookup, 1, "panic")
	g.expect("LOOKUP", syscall.EIO, errno)
	errno, _ = g.do(144, opLookup, 1, "a")
	g.expect("LOOKUP", 0, errno)
	if n := strings.Count(logged.String(), "panicked"); n != 1 {
		t.Errorf("logged %q", logged.String())
	}
}

type panicking struct{ Handler }

func (p panicking) HandleRequest(in, out [][]byte) (int, fuse.Status) {
	if bytes.HasSuffix(in[0], []byte("panic\x00")) {
		panic("asked to")
	}
	return p.Handler.HandleRequest(in, out)
}

func TestSyncFS(t *testing.T) {
	g := newGuest(t)
	errno, _ := g.do(16, opSyncFS, 1, uint64(0))
	g.expect("SYNCFS without a server for it", syscall.ENOSYS, errno)
	g = newGuest(t, func(c *Config) {
		c.SyncFS = func(node uint64) fuse.Status {
			if node == 1 {
				return fuse.OK
			}
			return fuse.ENOENT
		}
	})
	errno, _ = g.do(16, opSyncFS, 1, uint64(0))
	g.expect("SYNCFS", 0, errno)
	errno, _ = g.do(16, opSyncFS, 2, uint64(0))
	g.expect("SYNCFS of nothing", syscall.ENOENT, errno)
}

// TestLogFlood: a guest cannot fill the host's log.
func TestLogFlood(t *testing.T) {
	var logged bytes.Buffer
	g := newGuest(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	for range 1000 {
		g.do(144, opLookup, 1, "a/b")
	}
	if n := strings.Count(logged.String(), "\n"); n == 0 || n > 20 {
		t.Errorf("%d lines", n)
	}
}

func TestStateRoundTrip(t *testing.T) {
	g := newGuest(t)
	g.Init()
	g.init(flagSetXAttrExt)
	g.do(16, 32, 2, lockArgs(1, 1)...)
	waiter := g.add(16, opSetLkW, 2, lockArgs(2, 1)...)
	time.Sleep(10 * time.Millisecond)
	if _, err := g.MMIO.MarshalBinary(); err == nil {
		t.Error("a snapshot with a request under way")
	}
	g.do(16, 32, 2, lockArgs(1, 2)...)
	g.wait(waiter)
	g.StopWorkers()
	state, err := g.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	g.Move(newDevice(t, newMemFS("a")))
	if err := g.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	again, err := g.MMIO.MarshalBinary()
	if err != nil || !bytes.Equal(state, again) {
		t.Errorf("the state changed on the way: %v", err)
	}
	g.StartWorkers()
	errno, _ := g.do(144, opLookup, 1, "a")
	g.expect("LOOKUP", 0, errno)
	// What INIT negotiated is there: the longer arguments of SETXATTR.
	errno, _ = g.do(16, opSetXAttr, 2, uint32(1), uint32(0), uint64(0), "user.x", []byte("v"))
	g.expect("SETXATTR", 0, errno)

	d := newDevice(t, newMemFS())
	good, _ := d.MarshalState()
	init := message(opInit, 1, 0, uint32(7), uint32(38), zeros(56))
	for name, bad := range map[string][]byte{
		"empty": nil, "version": append([]byte{9}, good[1:]...), "short": good[:20], "tag": append([]byte{1}, zeros(36)...),
		"no INIT": append(bytes.Clone(good), message(3, 1, 0, zeros(64))...), "long": append(append(bytes.Clone(good), init...), 0),
		"another INIT": append(bytes.Clone(good), message(opInit, 1, 0, uint32(9), uint32(38), zeros(56))...),
	} {
		if err := newDevice(t, newMemFS()).UnmarshalState(bad); err == nil {
			t.Errorf("state %q was accepted", name)
		}
	}
}

// A fault in guest memory on a request's own goroutine ends the VM by way of the next Serve.
func TestFaultIsTold(t *testing.T) {
	d := newDevice(t, newMemFS())
	fault := &guestmem.FaultError{Addr: 0x1000, Cause: errors.New("SIGBUS")}
	d.outcome(errors.New("an ordinary error"))
	if d.fault.Load() != nil {
		t.Fatal("an ordinary error is taken for a fault")
	}
	d.outcome(fmt.Errorf("push: %w", fault))
	if err := d.Serve(t.Context(), 1, nil); !errors.Is(err, fault) {
		t.Errorf("Serve: %v, want %v", err, fault)
	}
}
