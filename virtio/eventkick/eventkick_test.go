package eventkick

import (
	"encoding/binary"
	"runtime"
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
	go func() { done <- k.Wait() }()
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
	go func() { ended <- k.Wait() }()
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

// TestKickDuringClose: a notification that races with the end of a queue neither hangs nor reaches another descriptor
// (design: day-one test 8).
func TestKickDuringClose(t *testing.T) {
	for range 1000 {
		k := newKick(t)
		waiting, poked := make(chan error, 1), make(chan struct{})
		go func() {
			for {
				if err := k.Wait(); err != nil {
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
