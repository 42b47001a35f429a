package kvm_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	notKVM := filepath.Join(dir, "null")
	if err := os.Symlink("/dev/null", notKVM); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		is         error
		says       string
	}{
		{"absent", filepath.Join(dir, "kvm"), unix.ENOENT, "load the module"},
		{"not KVM", notKVM, unix.ENOTTY, "KVM_GET_API_VERSION"},
		{"directory", dir, unix.EISDIR, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := kvm.OpenPath(c.path)
			if s != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, %v, want an error that is %v and says %q", s, err, c.is, c.says)
			}
		})
	}
}

func TestCheckExtension(t *testing.T) {
	s := kvmtest.Open(t)
	g := kvmtest.New(t, s, kvmtest.Real, nil)
	for _, c := range []kvm.Cap{kvm.CapUserMemory, kvm.CapIRQChip, kvm.CapIRQFD, kvm.CapIOEventFD, kvm.CapImmediateExit} {
		sys, err := s.CheckExtension(c)
		vm, err2 := g.VM.CheckExtension(c)
		if sys < 1 || vm < 1 || err != nil || err2 != nil {
			t.Errorf("capability %d: %d, %d, %v, %v, want at least 1", c, sys, vm, err, err2)
		}
	}
	if n, err := s.CheckExtension(99999); n != 0 || err != nil {
		t.Errorf("a capability that does not exist: %d, %v, want 0", n, err)
	}
	if n, err := s.VCPUMmapSize(); n < os.Getpagesize() || err != nil {
		t.Errorf("kvm_run of %d bytes, %v, want at least a page", n, err)
	}
}

func TestEnableCap(t *testing.T) {
	s := kvmtest.Open(t)
	g := kvmtest.New(t, s, kvmtest.Real, nil, (*kvm.VM).CreateIRQChip)
	if has, _ := g.VM.CheckExtension(kvm.CapHaltPoll); has > 0 {
		if err := g.VM.EnableCap(kvm.CapHaltPoll, 0); err != nil {
			t.Error(err)
		}
	}
	if err := g.VM.EnableCap(99999); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a capability that does not exist: %v, want EINVAL", err)
	}
	if err := g.VM.EnableCap(kvm.CapHaltPoll, 1, 2, 3, 4, 5); !errors.Is(err, unix.EINVAL) {
		t.Errorf("five arguments: %v, want EINVAL", err)
	}
}

func TestErrorsNameTheIoctl(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, nil)
	_, err := g.VM.CreateVCPU(0)
	if !errors.Is(err, unix.EEXIST) || err.Error() != "KVM_CREATE_VCPU: file exists" {
		t.Errorf("a second vCPU 0: %v, want KVM_CREATE_VCPU: file exists", err)
	}
}

func TestReadonlySlot(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0xbb, 0x00, 0x00, 0x40, 0x00, // mov ebx, 0x400000
		0x8a, 0x03, // mov al, [rbx]
		0x88, 0x43, 0x01, // mov [rbx+1], al
		0xf4,
	})
	rom, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(rom)
	defer g.Close()
	rom[0] = 0x5a
	if err := g.VM.SetUserMemoryRegion(1, kvm.MemReadonly, 0x400000, rom); err != nil {
		t.Fatal(err)
	}
	g.Run(t, kvm.ExitMMIO)
	if m := g.VCPU.MMIO(); !m.Write || m.Addr != 0x400001 || m.Data[0] != 0x5a {
		t.Errorf("%+v, want a write of 0x5a to 0x400001", m)
	}
}

func TestDirtyLog(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0xc6, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00, 0x01, // mov byte [0x20000], 1
		0xc6, 0x04, 0x25, 0xff, 0x5f, 0x05, 0x00, 0x01, // mov byte [0x55fff], 1
		0xf4,
	})
	if err := g.VM.SetUserMemoryRegion(0, kvm.MemLogDirtyPages, 0, g.Mem); err != nil {
		t.Fatal(err)
	}
	const pages = kvmtest.MemorySize / 4096
	read := func() []uint64 {
		t.Helper()
		bitmap := make([]uint64, pages/64)
		if err := g.VM.DirtyLog(0, bitmap); err != nil {
			t.Fatal(err)
		}
		return bitmap
	}
	dirty := func(bitmap []uint64, page int) bool { return bitmap[page/64]>>(page%64)&1 != 0 }
	read()
	g.Run(t, kvm.ExitHLT)
	bitmap := read()
	for page, want := range map[int]bool{0x20: true, 0x55: true, 0x21: false, 0x54: false, 0x100: false} {
		if dirty(bitmap, page) != want {
			t.Errorf("page %#x dirty: %t, want %t", page, !want, want)
		}
	}
	if bitmap := read(); dirty(bitmap, 0x20) {
		t.Error("the log is not cleared by reading")
	}
	checkClearDirtyLog(t, g, read)
}

// checkClearDirtyLog is the second half of TestDirtyLog, with CapManualDirtyLogProtect2.
func checkClearDirtyLog(t *testing.T, g *kvmtest.Guest, read func() []uint64) {
	if err := g.VM.EnableCap(kvm.CapManualDirtyLogProtect2, kvm.DirtyLogManualProtectEnable); err != nil {
		t.Fatal(err)
	}
	if err := g.Reset(kvmtest.Long); err != nil {
		t.Fatal(err)
	}
	g.Run(t, kvm.ExitHLT)
	for i, want := range []uint64{1, 1} {
		if got := read()[0] >> 0x20 & 1; got != want {
			t.Fatalf("read %d: page 0x20 dirty %d, want %d: reading must not clear", i, got, want)
		}
	}
	if err := g.VM.ClearDirtyLog(0, 0, 64, []uint64{1 << 0x20}); err != nil {
		t.Fatal(err)
	}
	if got := read(); got[0]>>0x20&1 != 0 || got[1]>>(0x55-64)&1 != 1 {
		t.Errorf("after clearing page 0x20: %#x, want only page 0x55", got[:2])
	}
}

// TestUseAfterClose calls every method that can fail on closed objects, found by reflection so that none is forgotten.
func TestUseAfterClose(t *testing.T) {
	s := kvmtest.Open(t)
	g := kvmtest.New(t, s, kvmtest.Real, nil)
	errorType := reflect.TypeFor[error]()
	for _, closed := range []interface{ Close() error }{s, g.VM, g.VCPU} {
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(closed)
		called := 0
		for i := range typ.NumMethod() {
			m := typ.Method(i)
			results := m.Type.NumOut()
			if m.Name == "Close" || m.Name == "Kick" || results == 0 || m.Type.Out(results-1) != errorType {
				continue
			}
			called++
			out := m.Func.Call(append([]reflect.Value{reflect.ValueOf(closed)}, arguments(m.Type)...))
			if err, _ := out[results-1].Interface().(error); !errors.Is(err, unix.EBADF) {
				t.Errorf("%v.%s after Close: %v, want EBADF", typ, m.Name, err)
			}
		}
		if called < 9 {
			t.Errorf("%v: %d methods called, want at least 9", typ, called)
		}
		if err := closed.Close(); err != nil {
			t.Errorf("%v: closing again: %v", typ, err)
		}
	}
	g.VCPU.SetImmediateExit(true) // must not touch the mapping that is gone
}

// arguments makes one for each parameter but the receiver: zero, a pointer to zero, or a slice that is long enough.
func arguments(typ reflect.Type) (args []reflect.Value) {
	for i := 1; i < typ.NumIn(); i++ {
		if typ.IsVariadic() && i == typ.NumIn()-1 {
			break
		}
		switch in := typ.In(i); in.Kind() {
		case reflect.Pointer:
			args = append(args, reflect.New(in.Elem()))
		case reflect.Slice:
			args = append(args, reflect.MakeSlice(in, kvm.XsaveSize, kvm.XsaveSize))
		default:
			args = append(args, reflect.Zero(in))
		}
	}
	return args
}
