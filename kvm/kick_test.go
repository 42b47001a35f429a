package kvm_test

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

// lockThread locks the goroutine to its thread and returns the undo.
func lockThread() func() {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// The two guests that kicks are hard on: one never leaves by itself, the other does all the time.
var kickGuests = []struct {
	name string
	code []byte
	// work is how long the vCPU's thread is busy with each exit.
	work time.Duration
}{
	{"spin", []byte{0xeb, 0xfe}, 0},
	{"exit", []byte{0xe6, 0x80, 0xeb, 0xfc}, 15 * time.Microsecond},
}

// spinner runs a vCPU as a VMM does, answering each request once.
type spinner struct {
	g       *kvmtest.Guest
	work    time.Duration
	request atomic.Uint64
	stop    atomic.Bool
	tid     chan int
	answer  chan uint64
	done    chan error
}

func startSpinner(g *kvmtest.Guest, work time.Duration) *spinner {
	s := &spinner{g: g, work: work, tid: make(chan int, 1), answer: make(chan uint64, 1), done: make(chan error, 1)}
	go s.loop()
	return s
}

func (s *spinner) loop() {
	runtime.LockOSThread()
	s.tid <- unix.Gettid()
	answered := uint64(0)
	for !s.stop.Load() {
		_, err := s.g.VCPU.Run()
		if err == nil {
			for start := time.Now(); time.Since(start) < s.work; {
			}
			continue
		}
		if !errors.Is(err, kvm.ErrInterrupted) {
			s.done <- err
			return
		}
		s.g.VCPU.SetImmediateExit(false)
		if r := s.request.Load(); r != answered {
			answered = r
			s.answer <- r
		}
	}
	s.done <- nil
}

func (s *spinner) end(t *testing.T, tid int) {
	t.Helper()
	s.stop.Store(true)
	// The thread may have seen stop and be gone already.
	if err := s.g.VCPU.Kick(tid); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
	if err := <-s.done; err != nil {
		t.Error(err)
	}
}

func TestKickLosesNone(t *testing.T) {
	kicks := 5000
	if testing.Short() {
		kicks = 500
	}
	for _, c := range kickGuests {
		t.Run(c.name, func(t *testing.T) {
			g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, c.code)
			s := startSpinner(g, c.work)
			tid := <-s.tid
			for i := range kicks {
				// Hit every part of the vCPU's loop, not only the guest.
				for start := time.Now(); time.Since(start) < time.Duration(i%40)*time.Microsecond; {
				}
				s.request.Add(1)
				if err := g.VCPU.Kick(tid); err != nil {
					t.Fatal(err)
				}
				select {
				case <-s.answer:
				case <-time.After(2 * time.Second):
					t.Fatalf("kick %d of %d is lost", i+1, kicks)
				}
			}
			s.end(t, tid)
		})
	}
}

// TestImmediateExitBeforeRun: what was asked before KVM_RUN is not lost, and stays until it is cleared.
func TestImmediateExitBeforeRun(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xf4})
	g.VCPU.SetImmediateExit(true)
	for range 2 {
		if _, err := g.VCPU.Run(); !errors.Is(err, kvm.ErrInterrupted) {
			t.Fatalf("%v, want %v", err, kvm.ErrInterrupted)
		}
	}
	g.VCPU.SetImmediateExit(false)
	g.Run(t, kvm.ExitHLT)
}

// TestGCWhileSpinning: a vCPU that never leaves the guest must not hold up the garbage collector.
func TestGCWhileSpinning(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xeb, 0xfe})
	s := startSpinner(g, 0)
	tid := <-s.tid
	stop := watchdog(t, "garbage collection hangs")
	defer stop()
	for start := time.Now(); time.Since(start) < time.Second; {
		before := time.Now()
		runtime.GC()
		if d := time.Since(before); d > 5*time.Second {
			t.Errorf("a garbage collection took %v", d)
		}
	}
	s.end(t, tid)
}

// TestCloseWhileRunning: the descriptor and kvm_run stay until Run returns.
func TestCloseWhileRunning(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{0xeb, 0xfe})
	result, tids := make(chan error), make(chan int)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		_, err := g.VCPU.Run()
		for errors.Is(err, kvm.ErrInterrupted) {
			_, err = g.VCPU.Run()
		}
		result <- err
	}()
	tid := <-tids
	time.Sleep(20 * time.Millisecond)
	g.VCPU.Close()
	stop := watchdog(t, "Run does not return")
	defer stop()
	// immediate_exit is out of reach now, so a signal alone may come between two Runs; the second then says EBADF.
	for {
		_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
		select {
		case err := <-result:
			if !errors.Is(err, unix.EBADF) {
				t.Errorf("%v, want EBADF", err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
