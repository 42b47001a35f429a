package vmm_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// oddMemory is a size that no other mapping has.
const oddMemory = 37<<20 + 4096

// held is what a VM holds of the process: descriptors, kvm_run pages and guest RAM.
type held struct{ files, runPages, memory int }

func holding(t *testing.T) held {
	t.Helper()
	return held{
		files:    countFDs(t),
		runPages: mappings(t, func(_, _ uint64, line string) bool { return strings.Contains(line, "kvm-vcpu") }),
		memory:   mappings(t, func(start, end uint64, _ string) bool { return end-start == oddMemory }),
	}
}

// mappings counts this process's mappings that satisfy match, which gets a line of /proc/self/maps.
func mappings(t *testing.T, match func(start, end uint64, line string) bool) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var start, end uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if match(start, end, line) {
			n++
		}
	}
	return n
}

// tinyConfig is a VM of two CPUs, of which one waits for ever, with two devices.
func tinyConfig(code []byte) vmm.Config {
	return vmm.Config{
		CPUs: 2, Memory: oddMemory, Kernel: vmmtest.Kernel(code), Protocol: boot.PVH, Serial: &console{},
		Devices: []virtio.Device{rng.New(rand.Reader), rng.New(rand.Reader)},
	}
}

// lives are guests that are hard to end, each in its own way.
var lives = []struct {
	name string
	code []byte
	// busy is how long an exit's handler takes.
	busy time.Duration
}{
	{"spin", vmmtest.Spin, 0},
	{"exit", vmmtest.Exit, 0},
	{"halt", vmmtest.Halt, 0},
	{"busy handler", vmmtest.Phase, 3 * time.Millisecond},
	{"notify", slices.Concat(vmmtest.DriveQueue(), vmmtest.Notify()), 0},
}

// TestThousandLives ends VMs at arbitrary moments, under load, while others kick their vCPUs, and looks at what is left.
func TestThousandLives(t *testing.T) {
	vmmtest.NeedKVM(t)
	n := 1000
	if testing.Short() {
		n = 50
	}
	defer garbage()()
	live(t, 0) // opens what stays open, such as the runtime's poller
	before := holding(t)
	for i := range n {
		live(t, i)
		if t.Failed() {
			t.Fatalf("in life %d, %s", i, lives[i%len(lives)].name)
		}
	}
	if after := holding(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// live makes a VM, runs it, and ends it in one of three ways.
func live(t *testing.T, i int) {
	t.Helper()
	l := lives[i%len(lives)]
	cfg := tinyConfig(l.code)
	cfg.Phase = func(byte) { time.Sleep(l.busy) }
	vm, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if h := holding(t); h.memory != 1 || h.runPages != 2 {
		t.Errorf("a VM holds %+v: the count sees nothing", h)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- vm.Run(ctx) }()
	kicked := make(chan struct{})
	go func() {
		defer close(kicked)
		for vm.Pause() == nil {
			vm.Resume()
		}
	}()
	time.Sleep(time.Duration(i*37%2000) * time.Microsecond)
	want := vmm.ErrStopped
	switch i / len(lives) % 3 {
	case 0:
		vm.Close()
	case 1:
		cancel()
		want = context.Canceled
	case 2:
		go vm.Close()
		vm.Close()
	}
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Errorf("Run: %v, want %v", err, want)
		}
	case <-time.After(20 * time.Second):
		panic("the VM does not end")
	}
	vm.Close()
	<-kicked
}

// garbage keeps a processor and the garbage collector busy until stop is called.
func garbage() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				runtime.KeepAlive(make([]byte, 1<<20))
				runtime.GC()
			}
		}
	}()
	return func() { close(done); <-ended }
}

func TestRunOnce(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(tinyConfig(vmmtest.Reset))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if err := vm.Run(t.Context()); !errors.Is(err, vmm.ErrReset) {
		t.Fatalf("%v, want %v", err, vmm.ErrReset)
	}
	if err := vm.Run(t.Context()); err == nil || errors.Is(err, vmm.ErrReset) {
		t.Errorf("running it again: %v", err)
	}
	late, err := vmm.New(tinyConfig(vmmtest.Spin))
	if err != nil {
		t.Fatal(err)
	}
	late.Close()
	if err := late.Run(t.Context()); !errors.Is(err, vmm.ErrStopped) {
		t.Errorf("running a closed VM: %v", err)
	}
	if err := late.Pause(); err == nil {
		t.Error("a closed VM can be paused")
	}
}

// TestNewReleasesEverything has New fail at each place that takes a descriptor, and at those that look at the image.
func TestNewReleasesEverything(t *testing.T) {
	vmmtest.NeedKVM(t)
	vm, err := vmm.New(tinyConfig(vmmtest.Halt)) // opens what stays open
	if err != nil {
		t.Fatal(err)
	}
	vm.Close()
	before := holding(t)
	check := func(what string) {
		t.Helper()
		if after := holding(t); after != before {
			t.Errorf("%s: before %+v, after %+v", what, before, after)
		}
	}
	check("a VM that was made")
	for name, c := range map[string]struct {
		change func(*vmm.Config)
		says   string
	}{
		"config": {func(c *vmm.Config) { c.CPUs = 1000 }, "1000 CPUs"},
		"kernel": {func(c *vmm.Config) { c.Kernel = &vmm.Image{ReaderAt: strings.NewReader("x"), Size: 1} }, "neither ELF nor bzImage"},
		"initrd": {func(c *vmm.Config) { c.Initrd = &vmm.Image{ReaderAt: strings.NewReader("x"), Size: 2} }, "initrd: read 2 bytes"},
		"memory": {func(c *vmm.Config) { c.Memory = 1 << 60 }, "guest memory"},
	} {
		cfg := tinyConfig(vmmtest.Halt)
		if cfg.Host, err = vmm.OpenHost(""); err != nil {
			t.Fatal(err)
		}
		c.change(&cfg)
		if _, err := vmm.New(cfg); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		check(name)
	}
	if n := withFewerFiles(t, check); n < 8 {
		t.Errorf("New failed at %d numbers of descriptors: it needs more than that", n)
	}
}

// withFewerFiles lets New have one descriptor more each time, until it succeeds, and returns how often it failed.
func withFewerFiles(t *testing.T, check func(string)) (failures int) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	for limit := uint64(3); limit < old.Cur; limit++ {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		vm, err := vmm.New(tinyConfig(vmmtest.Halt))
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			vm.Close()
			check("the last")
			return failures
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("at most %d descriptors: %v, want EMFILE", limit, err)
		}
		check(err.Error())
		failures++
	}
	return failures
}
