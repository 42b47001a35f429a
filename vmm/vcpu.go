package vmm

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
)

// request is what a vCPU's thread is asked to do between two KVM_RUNs.
type request uint32

const (
	runRequest request = iota
	pauseRequest
	stopRequest
)

// vcpu is one virtual CPU: a goroutine locked to its thread, on which nothing but KVM_RUN and the buses run.
type vcpu struct {
	vm  *VM
	id  int
	kvm *kvm.VCPU

	tid  atomic.Int32 // of the thread, once it runs
	want atomic.Uint32

	mu     sync.Mutex
	change *sync.Cond // want or parked changed
	parked bool
}

func newVCPU(v *VM, id int) (*vcpu, error) {
	k, err := v.vm.CreateVCPU(id)
	if err != nil {
		return nil, err
	}
	c := &vcpu{vm: v, id: id, kvm: k}
	c.change = sync.NewCond(&c.mu)
	return c, nil
}

// request asks the thread for r. The order loses no kick: the request first, then immediate_exit and the signal; the
// thread clears immediate_exit and then reads the request.
func (c *vcpu) request(r request) {
	c.mu.Lock()
	if request(c.want.Load()) != stopRequest {
		c.want.Store(uint32(r))
	}
	c.change.Broadcast()
	c.mu.Unlock()
	if tid := int(c.tid.Load()); tid != 0 {
		_ = c.kvm.Kick(tid)
	} else {
		c.kvm.SetImmediateExit(true)
	}
}

// loop runs the guest until the VM ends.
func (c *vcpu) loop() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	c.tid.Store(int32(unix.Gettid()))
	if c.vm.batch.Load() {
		changePolicy(unix.Gettid(), unix.SCHED_BATCH, unix.SCHED_NORMAL) // inherited
	}
	defer c.tid.Store(0)
	// A host that cannot back guest memory becomes an error of this VM, not the end of the process.
	if err := c.vm.mem.Guard(c.run); err != nil {
		c.vm.end(fmt.Errorf("vCPU %d: %w", c.id, err))
	}
}

// run returns nil when the VM ends otherwise.
func (c *vcpu) run() error {
	for {
		switch request(c.want.Load()) {
		case stopRequest:
			return nil
		case pauseRequest:
			c.park()
			continue
		}
		reason, err := c.kvm.Run()
		switch {
		case errors.Is(err, kvm.ErrInterrupted):
			c.kvm.SetImmediateExit(false)
		case err != nil:
			return err
		case reason == kvm.ExitShutdown: // a triple fault: what reboot=t does on purpose
			c.vm.end(ErrReset)
			return nil
		default:
			if err := c.handle(reason); err != nil {
				return err
			}
		}
	}
}

// park waits until the thread is wanted again.
func (c *vcpu) park() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parked = true
	since := time.Now()
	c.change.Broadcast()
	for request(c.want.Load()) == pauseRequest {
		c.change.Wait()
	}
	c.steal(time.Since(since))
	c.parked = false
	c.change.Broadcast()
}

// handle carries out one exit; its error ends the VM.
func (c *vcpu) handle(reason kvm.ExitReason) error {
	switch reason {
	case kvm.ExitIO:
		c.portAccess(c.kvm.IO())
	case kvm.ExitMMIO:
		m := c.kvm.MMIO()
		c.vm.exits.mmio(m.Addr, m.Write)
		if m.Write {
			c.vm.mmio.Write(m.Addr, m.Data)
		} else {
			c.vm.mmio.Read(m.Addr, m.Data)
		}
	case kvm.ExitIntr, kvm.ExitIRQWindowOpen:
	case kvm.ExitInternalError:
		e := c.kvm.InternalError()
		return fmt.Errorf("%w: %s", e, hintEmulated)
	case kvm.ExitFailEntry:
		return c.kvm.FailEntry()
	default:
		return fmt.Errorf("unexpected exit: %v", reason)
	}
	return nil
}

const hintEmulated = `the host's KVM may only emulate kernel code: see "govmm-run check"`

func (c *vcpu) portAccess(io kvm.IO) {
	c.vm.exits.port(io.Port, io.In)
	for i := 0; i < io.Count; i++ {
		p := io.Data[i*io.Size : (i+1)*io.Size]
		if io.In {
			c.vm.ports.Read(uint64(io.Port), p)
		} else {
			c.vm.ports.Write(uint64(io.Port), p)
		}
	}
}
