package eventkick

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio"
)

var _ virtio.Kick = (*Kick)(nil)

func newKick(t *testing.T) *Kick {
	t.Helper()
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// wait fails the test when Wait takes longer than anybody has patience for.
func wait(t *testing.T, k *Kick) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- k.Wait(nil) }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Wait does not end")
		return nil
	}
}

func TestPokeBeforeWait(t *testing.T) {
	k := newKick(t)
	defer k.Close()
	k.Poke()
	k.Poke()
	if err := wait(t, k); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- k.Wait(nil) }()
	select {
	case err := <-ended:
		t.Fatalf("two kicks ended two waits (%v): they are one notification", err)
	case <-time.After(20 * time.Millisecond):
	}
	// KVM signals the descriptor itself.
	err := k.Control(func(fd int) {
		if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestKickWithRing counts what a driver makes available and notifies of, as KVM does, against what a waiter who asks the ring sees: nothing
// is lost, wherever between the look at the ring and the wait a notification falls, and the counter is never read.
func TestKickWithRing(t *testing.T) {
	k := newKick(t)
	defer k.Close()
	const total = 20000
	var available atomic.Int64
	go func() {
		one := binary.NativeEndian.AppendUint64(nil, 1)
		for n := range total {
			available.Add(1)
			_ = k.Control(func(fd int) { _, _ = unix.Write(fd, one) })
			if n%64 == 0 {
				time.Sleep(time.Duration(n%7) * 10 * time.Microsecond)
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		for taken := int64(0); taken < total; {
			if err := k.Wait(func() bool { return available.Load() != taken }); err != nil {
				done <- err
				return
			}
			taken = available.Load()
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("a notification was lost")
	}
	_ = k.Control(func(fd int) {
		var count [8]byte
		if _, err := unix.Read(fd, count[:]); err != nil || binary.NativeEndian.Uint64(count[:]) != total {
			t.Errorf("the counter holds %d, %v, want all %d notifications", binary.NativeEndian.Uint64(count[:]), err, total)
		}
	})
}

// TestPokeWithRing: a Poke is seen whether it comes before the wait or in it, though the ring has nothing.
func TestPokeWithRing(t *testing.T) {
	k := newKick(t)
	defer k.Close()
	nothing := func() bool { return false }
	for n := range 2000 {
		poked := make(chan struct{})
		if n%2 == 0 {
			k.Poke()
			close(poked)
		} else {
			go func() {
				k.Poke()
				close(poked)
			}()
		}
		ended := make(chan error, 1)
		go func() { ended <- k.Wait(nothing) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("poke %d was lost", n)
		}
		<-poked
	}
}

// TestKickDuringClose: a notification that races with the end of a queue neither hangs nor reaches another descriptor
// (design: day-one test 8).
func TestKickDuringClose(t *testing.T) {
	for range 1000 {
		k := newKick(t)
		waiting, poked := make(chan error, 1), make(chan struct{})
		go func() {
			for {
				if err := k.Wait(nil); err != nil {
					waiting <- err
					return
				}
			}
		}()
		go func() {
			defer close(poked)
			for range 4 {
				k.Poke()
				runtime.Gosched()
			}
		}()
		runtime.Gosched()
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-waiting:
		case <-time.After(20 * time.Second):
			t.Fatal("Wait goes on after Close")
		}
		<-poked
		k.Poke()
		if err := k.Control(func(int) { t.Error("a closed descriptor is handed out") }); err == nil {
			t.Error("Control of a closed kick succeeded")
		}
	}
}
