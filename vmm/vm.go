package vmm

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/devices"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/balloon"
)

// ErrReset is Run's result when the guest asked for a reset: how a guest that has no power switch ends.
var ErrReset = errors.New("the guest reset the machine")

// ErrPowerOff is Run's result when the guest powered itself off, which takes ACPI.
var ErrPowerOff = errors.New("the guest powered itself off")

// errStopped ends vCPUs and workers when the VM is closed.
var errStopped = errors.New("the VM was stopped")

// haltPoll is how long a halting vCPU looks for work before its thread sleeps, in nanoseconds: long enough for the
// answer of a device of ours, short enough that an idle VM does not show on the host.
const haltPoll = 50_000

// flushTime is how long the serial port's last output may take when the VM ends.
const flushTime = time.Second

// VM is one virtual machine. New builds it, Run lets it run once, Close ends it.
type VM struct {
	cfg    Config
	sys    *kvm.System
	vm     *kvm.VM
	mem    *guestmem.Memory
	ports  *devices.Bus
	mmio   *devices.Bus
	serial *devices.Serial
	slots  []*slot
	cpus   []*vcpu

	forMemory []virtio.Device // the devices for memory
	waiting   []virtio.Device // those of them that AttachMemory puts into slots; guarded by life
	balloon   *balloon.Device // nil without
	grow      sync.Mutex      // over changes of growth
	growth    *growth         // nil without

	exits *exitCounts

	ctx    context.Context
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
	close  sync.Once
	pause  sync.Mutex

	life    sync.Mutex // starting and joining
	started bool
	batch   atomic.Bool // threads other than the vCPUs' are batch threads
}

// New makes the VM and loads its kernel; nothing runs yet. When it fails it has released everything, cfg.Host too.
func New(cfg Config) (*VM, error) {
	if err := cfg.complete(); err != nil {
		if cfg.Host != nil {
			_ = cfg.Host.Close()
		}
		return nil, err
	}
	v := &VM{cfg: cfg, ports: devices.NewBus(), mmio: devices.NewBus()}
	if cfg.TraceExits {
		v.exits = newExitCounts()
	}
	v.ctx, v.cancel = context.WithCancelCause(context.Background())
	if err := v.build(); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// build makes KVM's side of the VM while the kernel is being loaded: making a VM may wait longer than that takes (Host).
func (v *VM) build() error {
	var err error
	if v.cfg.Host == nil {
		if v.cfg.Host, err = OpenHost(""); err != nil {
			return err
		}
	}
	v.sys = v.cfg.Host.sys
	if v.mem, err = guestmem.Map(boot.Layout(v.cfg.Memory)); err != nil {
		return err
	}
	if err := v.setUpGrowth(); err != nil {
		return err
	}
	loaded := make(chan error, 1)
	var entry *boot.Entry
	go func() {
		loaded <- v.mem.Guard(func() (err error) {
			entry, err = v.load()
			return err
		})
	}()
	err = v.setUpKVM()
	if loadErr := <-loaded; loadErr != nil {
		return loadErr // the user's to mend; a fault of KVM's can wait
	}
	if err != nil {
		return err
	}
	return v.cpus[0].enter(entry)
}

func (v *VM) setUpKVM() error {
	var err error
	if v.vm, err = v.cfg.Host.take(); err != nil {
		return err
	}
	for _, step := range []func() error{v.setUpChips, v.setUpMemory, v.setUpDevices, v.setUpCPUs} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// setUpChips makes the in-kernel interrupt controllers. There is no PIT: the TSC deadline timer and kvm-clock do its work.
func (v *VM) setUpChips() error {
	// Intel needs these two pages below 4 GiB for its real-mode emulation; AMD ignores them.
	if err := v.vm.SetIdentityMapAddr(boot.IdentityMapAddr); err != nil {
		return err
	}
	if err := v.vm.SetTSSAddr(boot.TSSAddr); err != nil {
		return err
	}
	if err := v.vm.CreateIRQChip(); err != nil {
		return err
	}
	// CPUID shows no performance counters; on AMD a guest would find some all the same.
	if n, err := v.vm.CheckExtension(kvm.CapPMUCapability); err == nil && n&kvm.PMUDisable != 0 {
		if err := v.vm.EnableCap(kvm.CapPMUCapability, kvm.PMUDisable); err != nil {
			return err
		}
	}
	if n, err := v.vm.CheckExtension(kvm.CapHaltPoll); err == nil && n > 0 {
		return v.vm.EnableCap(kvm.CapHaltPoll, haltPoll)
	}
	return nil
}

func (v *VM) setUpMemory() error {
	for i, r := range v.mem.Regions() {
		if err := v.vm.SetUserMemoryRegion(uint32(i), 0, uint64(r.Base), v.mem.Host(i)); err != nil {
			return err
		}
	}
	return nil
}

// load puts the kernel into memory and returns the state in which it is entered. It uses nothing but the memory and the
// configuration.
func (v *VM) load() (*boot.Entry, error) {
	seed := make([]byte, 64)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	cfg := boot.Config{
		Kernel: v.cfg.Kernel, KernelSize: v.cfg.Kernel.Size,
		Cmdline:  v.cfg.Cmdline,
		CPUs:     v.cfg.CPUs,
		Devices:  mmioDevices(v.cfg.devices()),
		RNGSeed:  seed,
		Firmware: v.cfg.Firmware,
		Protocol: v.cfg.Protocol,
	}
	if v.cfg.Initrd != nil {
		cfg.Initrd, cfg.InitrdSize = v.cfg.Initrd, v.cfg.Initrd.Size
	}
	if v.cfg.Firmware == boot.MPTable && len(cfg.Devices) > 0 {
		cfg.Cmdline = joinCmdline(cfg.Cmdline, boot.MMIOCmdline(cfg.Devices))
	}
	return boot.Load(v.mem, cfg)
}

func joinCmdline(a, b string) string {
	if a == "" {
		return b
	}
	return a + " " + b
}

// CPUs returns the number of the guest's CPUs.
func (v *VM) CPUs() int { return v.cfg.CPUs }

// Memory returns the RAM that the guest starts with, in bytes.
func (v *VM) Memory() uint64 { return v.mem.Size() }

// Run lets the VM run until the guest resets (ErrReset), ctx is done, Close is called, or something fails. It may be
// called once.
func (v *VM) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { v.cancel(context.Cause(ctx)) })
	defer stop()
	if err := v.start(); err != nil {
		return err
	}
	<-v.ctx.Done()
	v.join()
	return context.Cause(v.ctx)
}

// start starts every thread and worker, unless the VM has ended: after join there must be none.
func (v *VM) start() error {
	v.life.Lock()
	defer v.life.Unlock()
	switch {
	case v.started:
		return errors.New("vmm: Run may be called once")
	case v.ctx.Err() != nil:
		return context.Cause(v.ctx)
	}
	v.started = true
	v.startDevices()
	for _, c := range v.cpus {
		v.group.Go(c.loop)
	}
	return nil
}

// end makes Run return err, unless something ended it before.
func (v *VM) end(err error) { v.cancel(err) }

// join kicks the vCPUs out of the guest and waits for every thread and worker. The VM has been ended before.
func (v *VM) join() {
	v.life.Lock()
	defer v.life.Unlock()
	for _, c := range v.cpus {
		c.request(stopRequest)
	}
	v.stopDevices()
	v.group.Wait()
	if v.serial != nil {
		v.serial.Flush(flushTime)
	}
}

// Close ends the VM and releases all it holds, in the order that leaves no user of anything: vCPUs, queue workers,
// eventfds, KVM's descriptors, then the memory. It may be called at any time, more than once, from any goroutine.
func (v *VM) Close() {
	v.close.Do(func() {
		v.cancel(errStopped)
		v.join()
		v.grow.Lock() // a SetMemory that has begun ends before, a later one finds the VM stopped
		defer v.grow.Unlock()
		v.life.Lock() // the same for a Detach
		defer v.life.Unlock()
		for _, s := range v.slots {
			s.empty(v.vm, v.mem)
		}
		for _, c := range v.cpus {
			_ = c.kvm.Close()
		}
		if v.vm != nil {
			_ = v.vm.Close()
		}
		if v.cfg.Host != nil {
			_ = v.cfg.Host.Close()
		}
		if v.mem != nil {
			_ = v.mem.Close()
		}
	})
}
