// Package vmm runs virtual machines: it wires KVM, guest memory, the boot loader and the devices, owns the vCPU threads
// and the order of shutting down. It parses nothing that a guest wrote.
package vmm

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
)

// Image is a kernel or an initramfs.
type Image struct {
	io.ReaderAt
	Size int64 // in bytes
}

// OpenImage opens a file as an image. It stays open as long as the process.
func OpenImage(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return &Image{f, st.Size()}, nil
}

// Config describes a VM. The zero value of a field means what its comment says; Kernel is required.
type Config struct {
	CPUs   int    // default 1
	Memory uint64 // RAM in bytes, a multiple of 4 KiB; default 256 MiB
	// MaxMemory is how much RAM SetMemory may give the guest while it runs, if that is more than Memory. It costs address
	// space, a virtio-mem device, and nothing else before it is used.
	MaxMemory uint64
	// Balloon gives the guest a balloon: pages that it frees go back to the host, if it has the driver.
	Balloon bool
	// LateMemory leaves the devices of MaxMemory and Balloon out of their slots until AttachMemory: to probe them costs a guest some
	// six million instructions of its boot.
	LateMemory bool
	Kernel     *Image
	Initrd     *Image // none by default
	Cmdline    string // of the kernel; the virtio-mmio devices are added where Firmware is MPTable
	// Protocol is how the kernel is entered; by default what the image offers.
	Protocol boot.Protocol
	// Firmware is what tells the kernel of CPUs and devices: an MP table by default, ACPI for distributions' kernels.
	Firmware boot.Firmware
	// Serial receives the output of COM1; nil leaves the port out.
	Serial io.Writer
	// Devices are the virtio devices, in the order of their slots; those of MaxMemory and Balloon follow. At most MaxDevices
	// in all, with LateDevices.
	Devices []virtio.Device
	// LateDevices is how many devices at a time Attach may give the guest while it runs. Each is an empty slot, which the guest's
	// driver passes over at boot.
	LateDevices int
	// Host is the KVM device, which the VM closes; nil opens /dev/kvm.
	Host   *Host
	Logger *slog.Logger
	// Phase is called on the vCPU's thread for every byte that the guest writes to the boot-phase port.
	Phase func(phase byte)
	// TraceExits counts exits by reason, port and address; see VM.Exits.
	TraceExits bool
}

const (
	defaultMemory = 256 << 20
	minMemory     = 8 << 20
	maxMemory     = 1 << 45 // what a process can map, with room for the rest
	maxCPUs       = 254     // xAPIC ids
)

// MaxDevices is the number of virtio slots: as many as the IOAPIC has pins left.
const MaxDevices = boot.MaxDevices

func (c *Config) complete() error {
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Kernel == nil:
		return errors.New("vmm: no kernel")
	case c.CPUs < 1 || c.CPUs > maxCPUs:
		return fmt.Errorf("vmm: %d CPUs: between 1 and %d are possible", c.CPUs, maxCPUs)
	case c.Memory < minMemory || c.Memory%4096 != 0:
		return fmt.Errorf("vmm: memory of %d bytes: at least %d MiB in whole pages are needed", c.Memory, minMemory>>20)
	case c.MaxMemory%4096 != 0 || c.MaxMemory > maxMemory:
		return fmt.Errorf("vmm: memory of up to %d bytes: whole pages up to %d TiB are possible", c.MaxMemory, maxMemory>>40)
	case c.LateDevices < 0:
		return fmt.Errorf("vmm: %d late devices", c.LateDevices)
	case c.devices() > MaxDevices:
		return fmt.Errorf("vmm: %d devices: at most %d are possible", c.devices(), MaxDevices)
	}
	return nil
}

// devices counts the slots of virtio devices.
func (c *Config) devices() int {
	n := len(c.Devices) + c.LateDevices
	if c.Balloon {
		n++
	}
	if c.MaxMemory > c.Memory {
		n++
	}
	return n
}
