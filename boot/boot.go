// Package boot puts a kernel, its initramfs, its command line and the tables that describe the machine into guest
// memory, and returns the state in which the first CPU has to enter it, as plain data. It parses images that a user
// brings, so it trusts none of their fields; it knows nothing of KVM.
//
// An ELF vmlinux or a bzImage is entered by Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst), an ELF
// image with a Xen PHYS32_ENTRY note can be entered as a PVH guest instead.
package boot

import (
	"errors"
	"fmt"
	"io"

	"github.com/govmm/govmm/guestmem"
)

// Protocol is how a kernel is entered.
type Protocol uint8

// The protocols. Auto takes Linux64 where the image has a 64-bit entry, as it costs the guest the fewest steps, else PVH.
const (
	Auto Protocol = iota
	Linux64
	PVH
)

func (p Protocol) String() string {
	switch p {
	case Auto:
		return "auto"
	case Linux64:
		return "linux64"
	case PVH:
		return "pvh"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// Firmware is what tells the kernel of CPUs, interrupts and devices.
type Firmware uint8

// An MP table names CPUs and interrupts; the devices go on the command line, see MMIOCmdline. ACPI names all of them,
// which is what distributions' kernels are built for.
const (
	MPTable Firmware = iota
	ACPI
)

func (f Firmware) String() string {
	switch f {
	case MPTable:
		return "mptable"
	case ACPI:
		return "acpi"
	}
	return fmt.Sprintf("firmware(%d)", uint8(f))
}

// MMIODevice is one virtio-mmio window and its interrupt.
type MMIODevice struct {
	Base guestmem.Addr
	Size uint64 // in bytes
	GSI  uint32
}

// Config says what to load. Kernel and CPUs are required.
type Config struct {
	Kernel     io.ReaderAt
	KernelSize int64 // in bytes
	Initrd     io.ReaderAt
	InitrdSize int64 // in bytes; 0: no initrd
	Cmdline    string
	CPUs       int
	Devices    []MMIODevice
	// RNGSeed is credited as entropy from the guest's first instruction (SETUP_RNG_SEED); at most 4 KiB, none if empty.
	// PVH has no place for it.
	RNGSeed  []byte
	Firmware Firmware
	Protocol Protocol
}

const (
	maxCPUs    = 254 // 8-bit APIC ids, less the IOAPIC's and the broadcast's
	maxRNGSeed = 4096
)

func (c *Config) check() error {
	switch {
	case c.Kernel == nil || c.KernelSize <= 0:
		return errors.New("boot: kernel: the file is empty")
	case c.Initrd == nil && c.InitrdSize != 0 || c.InitrdSize < 0:
		return fmt.Errorf("boot: initrd: bad size %d", c.InitrdSize)
	case c.CPUs < 1 || c.CPUs > maxCPUs:
		return fmt.Errorf("boot: %d CPUs: between 1 and %d are possible", c.CPUs, maxCPUs)
	case len(c.RNGSeed) > maxRNGSeed:
		return fmt.Errorf("boot: random seed of %d bytes: at most %d are possible", len(c.RNGSeed), maxRNGSeed)
	case c.Firmware > ACPI:
		return fmt.Errorf("boot: unknown %v", c.Firmware)
	case c.Protocol > PVH:
		return fmt.Errorf("boot: unknown %v", c.Protocol)
	}
	return checkDevices(c.Devices)
}

func checkDevices(devs []MMIODevice) error {
	if len(devs) > MaxDevices {
		return fmt.Errorf("boot: %d devices: at most %d are possible", len(devs), MaxDevices)
	}
	for i, d := range devs {
		end := d.Base + guestmem.Addr(d.Size)
		if d.Size == 0 || end < d.Base || d.Base < HoleStart || end > IOAPICAddr {
			return fmt.Errorf("boot: device %d: window %#x+%#x is not between %#x and %#x",
				i, uint64(d.Base), d.Size, uint64(HoleStart), uint64(IOAPICAddr))
		}
		if d.GSI >= IOAPICPins {
			return fmt.Errorf("boot: device %d: interrupt %d: the IOAPIC has %d", i, d.GSI, IOAPICPins)
		}
	}
	return nil
}

// loader carries one Load: the guest's memory, and where things went.
type loader struct {
	mem    *guestmem.Memory
	cfg    *Config
	lowEnd guestmem.Addr // end of the RAM that starts at 0, at most HoleStart

	image  *image
	initrd guestmem.Region // Size 0: none
	rsdp   guestmem.Addr   // 0: no ACPI
}

// Load writes everything that the guest needs into mem and returns the first CPU's state. The memory must be fresh:
// Load relies on its being zero. After an error its content is undefined.
func Load(mem *guestmem.Memory, cfg Config) (*Entry, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &loader{mem: mem, cfg: &cfg}
	if err := l.findLowRAM(); err != nil {
		return nil, err
	}
	var err error
	if l.image, err = parseImage(cfg.Kernel, cfg.KernelSize, cfg.Protocol); err != nil {
		return nil, fmt.Errorf("boot: kernel: %w", err)
	}
	if err := checkCmdline(cfg.Cmdline, l.image.cmdlineMax); err != nil {
		return nil, err
	}
	for _, step := range []func() error{l.place, l.loadKernel, l.loadInitrd, l.writeCmdline, l.writeFirmware} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if l.image.protocol == PVH {
		return l.enterPVH()
	}
	return l.enterLinux64()
}

// minLowRAM is what the tables below 1 MiB and the smallest thinkable kernel need.
const minLowRAM = 2 << 20

func (l *loader) findLowRAM() error {
	for _, r := range l.mem.Regions() {
		if r.Base == 0 {
			l.lowEnd = min(r.End(), HoleStart)
		}
	}
	if l.lowEnd < minLowRAM {
		return fmt.Errorf("boot: %d KiB of RAM from address 0: at least %d are needed", l.lowEnd>>10, minLowRAM>>10)
	}
	return nil
}

// place finds room for the kernel and the initrd, before anything is written.
func (l *loader) place() error {
	end, err := l.image.place(l.lowEnd)
	if err != nil {
		return err
	}
	if l.cfg.InitrdSize == 0 {
		return nil
	}
	// As high as possible: the kernel's own early allocations come from the top, too, and what lies right behind the
	// kernel may be in the way of its decompressor.
	limit := min(l.lowEnd, l.image.initrdMax+1)
	size := uint64(l.cfg.InitrdSize)
	if kernelEnd := alignUp(end, guestmem.PageSize); kernelEnd > limit || size > uint64(limit-kernelEnd) {
		return fmt.Errorf("boot: initrd of %d KiB does not fit behind the kernel, which ends at %d KiB, and below %d KiB: give the VM at least %d MiB of memory",
			(size+1023)>>10, end>>10, limit>>10, mib(uint64(kernelEnd)+size))
	}
	base := (limit - guestmem.Addr(size)) &^ (guestmem.PageSize - 1)
	l.initrd = guestmem.Region{Base: base, Size: size}
	return nil
}

func (l *loader) loadKernel() error {
	for i, s := range l.image.segments {
		if err := l.readInto(l.cfg.Kernel, s.offset, s.addr, s.fileSize); err != nil {
			return fmt.Errorf("boot: kernel segment %d: %w", i, err)
		}
	}
	return nil
}

func (l *loader) loadInitrd() error {
	if l.initrd.Size == 0 {
		return nil
	}
	if err := l.readInto(l.cfg.Initrd, 0, l.initrd.Base, l.initrd.Size); err != nil {
		return fmt.Errorf("boot: initrd: %w", err)
	}
	return nil
}

// readInto reads a part of an image straight into guest memory. No copy in between: the kernel's is the largest there is.
func (l *loader) readInto(r io.ReaderAt, off int64, a guestmem.Addr, n uint64) error {
	if n == 0 {
		return nil
	}
	if n > uint64(HoleStart) {
		return fmt.Errorf("%d bytes are more than low memory can hold", n)
	}
	b, err := l.mem.Slice(a, uint32(n))
	if err != nil {
		return err
	}
	got, err := r.ReadAt(b, off)
	if got == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at offset %d: %w", n, off, err)
}

// resetCode is the whole BIOS: real-mode code at the reset vector that pulses the reset line. Linux jumps there when it
// restarts a hardware-reduced ACPI machine that has no EFI.
const resetCode = "\xb0\xfe" + // mov $0xfe, %al
	"\xe6\x64" + // out %al, $0x64
	"\xf4" + // hlt
	"\xeb\xfd" // jmp to the hlt

func (l *loader) writeFirmware() error {
	if err := l.mem.WriteAt([]byte(resetCode), resetVector); err != nil {
		return err
	}
	if l.cfg.Firmware == ACPI {
		l.rsdp = biosAddr
		return l.mem.WriteAt(acpiTables(biosAddr, l.cfg.CPUs, l.cfg.Devices), biosAddr)
	}
	table := mpTable(l.cfg.CPUs, l.cfg.Devices)
	if err := l.mem.WriteAt(table, ebdaAddr); err != nil {
		return err
	}
	return l.mem.WriteAt(mpFloatingPointer(ebdaAddr), mpFloatAddr)
}

func alignUp(a guestmem.Addr, to uint64) guestmem.Addr {
	return (a + guestmem.Addr(to) - 1) &^ (guestmem.Addr(to) - 1)
}

// mib rounds a number of bytes up to whole MiB.
func mib(n uint64) uint64 { return (n + 1<<20 - 1) >> 20 }
