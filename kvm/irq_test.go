package kvm_test

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/kvm"
	"github.com/govmm/govmm/kvm/kvmtest"
)

// eventfd returns an eventfd that the test closes.
func eventfd(t *testing.T) int {
	t.Helper()
	fd := eventfdOwned(t)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func signal(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

// count reads and zeroes an eventfd.
func count(t *testing.T, fd int) uint64 {
	t.Helper()
	var b [8]byte
	switch _, err := unix.Read(fd, b[:]); err {
	case nil:
		return binary.LittleEndian.Uint64(b[:])
	case unix.EAGAIN:
		return 0
	default:
		t.Fatal(err)
		return 0
	}
}

// picGuest sets up the master PIC with vectors from 0x20, unmasked, says so on port 0x81, and halts. Its handler for
// vector writes the number to port 0x80, ends the interrupt, and returns to the halt.
func picGuest(vector byte) []byte {
	return []byte{
		0xb0, 0x11, 0xe6, 0x20, // mov al, 0x11; out 0x20, al: ICW1, edge triggered
		0xb0, 0x20, 0xe6, 0x21, // ICW2, vectors from 0x20
		0xb0, 0x04, 0xe6, 0x21, // ICW3
		0xb0, 0x01, 0xe6, 0x21, // ICW4
		0xb0, 0x00, 0xe6, 0x21, // nothing masked
		0xe6, 0x81, // out 0x81, al
		0xfb,       // sti
		0xf4,       // hlt
		0xeb, 0xfd, // jmp hlt
		0, 0, 0, 0, 0, 0, // up to offset 0x20
		0xb0, vector, 0xe6, 0x80, // the handler: out 0x80, vector
		0xb0, 0x20, 0xe6, 0x20, // out 0x20, 0x20: end of interrupt
		0xcf, // iret
	}
}

const picHandler = kvmtest.CodeAddr + 32

func interruptGuest(t *testing.T, vector byte, setup ...func(*kvm.VM) error) *kvmtest.Guest {
	t.Helper()
	setup = append([]func(*kvm.VM) error{(*kvm.VM).CreateIRQChip}, setup...)
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, picGuest(vector), setup...)
	binary.LittleEndian.PutUint32(g.Mem[4*int(vector):], picHandler)
	g.Run(t, kvm.ExitIO)
	if port := g.VCPU.IO().Port; port != 0x81 {
		t.Fatalf("exit at port %#x, want 0x81", port)
	}
	return g
}

// wantInterrupt runs until the handler's port write.
func wantInterrupt(t *testing.T, g *kvmtest.Guest, vector byte) {
	t.Helper()
	stop := watchdog(t, "the interrupt never came")
	defer stop()
	g.Run(t, kvm.ExitIO)
	if io := g.VCPU.IO(); io.Port != 0x80 || io.Data[0] != vector {
		t.Fatalf("out %#x, %#x, want 0x80, %#x", io.Port, io.Data[0], vector)
	}
}

// watchdog ends the whole test binary if stop is not called in time: a vCPU that waits for ever in the kernel cannot be
// failed politely.
func watchdog(t *testing.T, what string) (stop func()) {
	timer := time.AfterFunc(20*time.Second, func() { panic(t.Name() + ": " + what) })
	return func() { timer.Stop() }
}

func TestIRQFD(t *testing.T) {
	g := interruptGuest(t, 0x25)
	fd := eventfd(t)
	if err := g.VM.IRQFD(fd, 5); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		signal(t, fd)
		wantInterrupt(t, g, 0x25)
	}
	if err := g.VM.RemoveIRQFD(fd, 5); err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	if n := count(t, fd); n != 1 {
		t.Errorf("after RemoveIRQFD KVM still reads the eventfd: count %d, want 1", n)
	}
}

// TestIRQFDWhileHalted delivers to a vCPU that sleeps in KVM_RUN, as it mostly does.
func TestIRQFDWhileHalted(t *testing.T) {
	g := interruptGuest(t, 0x25)
	fd := eventfd(t)
	if err := g.VM.IRQFD(fd, 5); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(50*time.Millisecond, func() { _, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer timer.Stop()
	wantInterrupt(t, g, 0x25)
}

func TestIRQFDResample(t *testing.T) {
	// ELCR makes line 5 level triggered; the handler's end of interrupt is the acknowledgement.
	g := interruptGuest(t, 0x25)
	chip, err := g.VM.IRQChip(kvm.IRQChipPICMaster)
	if err != nil {
		t.Fatal(err)
	}
	chip.Chip[14] = 1 << 5 // elcr
	if err := g.VM.SetIRQChip(&chip); err != nil {
		t.Fatal(err)
	}
	fd, resample := eventfd(t), eventfd(t)
	if err := g.VM.IRQFDResample(fd, resample, 5); err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	wantInterrupt(t, g, 0x25)
	stop := watchdog(t, "the resample eventfd was never signalled")
	defer stop()
	// The handler has still to run on to its end of interrupt, and then halts for ever: kick it out.
	for n := uint64(0); n == 0; n = count(t, resample) {
		kickAfter(t, g, 10*time.Millisecond)
	}
}

// kickAfter runs the guest for at least d, without exits.
func kickAfter(t *testing.T, g *kvmtest.Guest, d time.Duration) {
	t.Helper()
	defer lockThread()()
	tid := unix.Gettid()
	defer time.AfterFunc(d, func() { _ = g.VCPU.Kick(tid) }).Stop()
	for start := time.Now(); time.Since(start) < d; {
		if reason, err := g.VCPU.Run(); err == nil {
			t.Fatalf("exit %v, want none", reason)
		}
	}
	g.VCPU.SetImmediateExit(false)
}

func TestIRQLine(t *testing.T) {
	g := interruptGuest(t, 0x23)
	for range 2 {
		for _, level := range []bool{true, false} {
			if err := g.VM.IRQLine(3, level); err != nil {
				t.Fatal(err)
			}
		}
		wantInterrupt(t, g, 0x23)
	}
}

const msiAddress = 0xfee00000 // local APIC 0, physical destination

// enableLAPIC sets the software enable bit in the spurious interrupt vector register.
func enableLAPIC(t *testing.T, v *kvm.VCPU) {
	t.Helper()
	lapic, err := v.LAPIC()
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(lapic.Regs[0xf0:], 0x1ff)
	if err := v.SetLAPIC(&lapic); err != nil {
		t.Fatal(err)
	}
}

func TestSignalMSI(t *testing.T) {
	g := interruptGuest(t, 0x40)
	enableLAPIC(t, g.VCPU)
	taken, err := g.VM.SignalMSI(msiAddress, 0x40)
	if err != nil || !taken {
		t.Fatalf("taken %t, %v, want true", taken, err)
	}
	wantInterrupt(t, g, 0x40)
}

func TestGSIRoutingMSI(t *testing.T) {
	g := interruptGuest(t, 0x41)
	enableLAPIC(t, g.VCPU)
	fd := eventfd(t)
	routes := []kvm.RoutingEntry{kvm.RouteIRQChip(4, kvm.IRQChipIOAPIC, 4), kvm.RouteMSI(30, msiAddress, 0x41)}
	if err := g.VM.SetGSIRouting(routes); err != nil {
		t.Fatal(err)
	}
	if err := g.VM.IRQFD(fd, 30); err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	wantInterrupt(t, g, 0x41)
}

func TestNMI(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, picGuest(2), (*kvm.VM).CreateIRQChip)
	binary.LittleEndian.PutUint32(g.Mem[4*2:], picHandler)
	g.Run(t, kvm.ExitIO)
	if err := g.VCPU.NMI(); err != nil {
		t.Fatal(err)
	}
	wantInterrupt(t, g, 2)
}

// TestInterruptWindow injects without an in-kernel interrupt controller.
func TestInterruptWindow(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Real, []byte{
		0xe6, 0x81, // out 0x81, al: interrupts are off
		0xfb,       // sti
		0x90, 0x90, // nop
		0xeb, 0xfe, // jmp .
		0xb0, 0x33, 0xe6, 0x80, // the handler, at offset 7
		0xf4,
	})
	binary.LittleEndian.PutUint32(g.Mem[4*0x33:], kvmtest.CodeAddr+7)
	g.Run(t, kvm.ExitIO)
	if g.VCPU.ReadyForInterrupt() {
		t.Error("ready for an interrupt, want not before sti")
	}
	g.VCPU.RequestInterruptWindow(true)
	g.Run(t, kvm.ExitIRQWindowOpen)
	if !g.VCPU.ReadyForInterrupt() {
		t.Error("not ready for an interrupt after the window opened")
	}
	g.VCPU.RequestInterruptWindow(false)
	if err := g.VCPU.Interrupt(0x33); err != nil {
		t.Fatal(err)
	}
	wantInterrupt(t, g, 0x33)
	g.Run(t, kvm.ExitHLT)
}

func TestIOEventFD(t *testing.T) {
	const doorbell = 0x300000
	// Writes 7 then 8 to the doorbell, 1 to port 0x90 and 2 to port 0x91, then halts.
	code := []byte{
		0xbb, 0x00, 0x00, 0x30, 0x00, // mov ebx, doorbell
		0xb8, 0x07, 0x00, 0x00, 0x00, 0x89, 0x03, // mov eax, 7; mov [rbx], eax
		0xb8, 0x08, 0x00, 0x00, 0x00, 0x89, 0x03, // mov eax, 8; mov [rbx], eax
		0xb0, 0x01, 0xe6, 0x90, // mov al, 1; out 0x90, al
		0xb0, 0x02, 0xe6, 0x91, // mov al, 2; out 0x91, al
		0xf4,
	}
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, code)
	matching, port := eventfd(t), eventfd(t)
	onMatch := kvm.IOEvent{Addr: doorbell, Len: 4, Match: true, Data: 7}
	onPort := kvm.IOEvent{Addr: 0x90, Len: 1, Port: true}
	for fd, e := range map[int]kvm.IOEvent{matching: onMatch, port: onPort} {
		if err := g.VM.IOEventFD(fd, e); err != nil {
			t.Fatal(err)
		}
	}
	g.Run(t, kvm.ExitMMIO)
	if m := g.VCPU.MMIO(); m.Addr != doorbell || m.Data[0] != 8 {
		t.Errorf("exit for a write of %d to %#x, want only that of 8", m.Data[0], m.Addr)
	}
	g.Run(t, kvm.ExitIO)
	if io := g.VCPU.IO(); io.Port != 0x91 {
		t.Errorf("exit at port %#x, want only 0x91", io.Port)
	}
	g.Run(t, kvm.ExitHLT)
	for name, fd := range map[string]int{"datamatch": matching, "port": port} {
		if n := count(t, fd); n != 1 {
			t.Errorf("%s eventfd signalled %d times, want once", name, n)
		}
	}
	if err := g.VM.RemoveIOEventFD(matching, onMatch); err != nil {
		t.Fatal(err)
	}
	if err := g.Reset(kvmtest.Long); err != nil {
		t.Fatal(err)
	}
	g.Run(t, kvm.ExitMMIO)
	if m := g.VCPU.MMIO(); m.Data[0] != 7 {
		t.Errorf("after RemoveIOEventFD the first exit is for %d, want 7", m.Data[0])
	}
	if err := g.VM.RemoveIOEventFD(matching, onMatch); !os.IsNotExist(err) {
		t.Errorf("removing twice: %v, want ENOENT", err)
	}
}

func TestIOEventFDAnyLength(t *testing.T) {
	g := kvmtest.New(t, kvmtest.Open(t), kvmtest.Long, []byte{
		0xbb, 0x00, 0x00, 0x30, 0x00, // mov ebx, 0x300000
		0x88, 0x03, 0x66, 0x89, 0x03, 0x89, 0x03, // mov [rbx], al; ax; eax
		0xf4,
	})
	fd := eventfd(t)
	if err := g.VM.IOEventFD(fd, kvm.IOEvent{Addr: 0x300000}); err != nil {
		t.Fatal(err)
	}
	g.Run(t, kvm.ExitHLT)
	if n := count(t, fd); n != 3 {
		t.Errorf("signalled %d times, want 3", n)
	}
}
