package monitor

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/govmm/govmm/guestkernel"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
)

// images are what a VM is made of, opened while the host's tree is still there.
type images struct {
	host           *vmm.Host
	kernel, initrd *vmm.Image
	cmdline        string
}

// openImages takes the kernel of --kernel, of vm.kernel.path, or the embedded one, in this order.
func openImages(cfg *Config, host *vmm.Host) (*images, error) {
	var err error
	i := &images{host: host, cmdline: guestkernel.Cmdline + " " + guestkernel.SerialCmdline}
	kernel, initrd := cfg.Kernel, ""
	if vm := cfg.Spec.VM; vm != nil {
		if kernel == "" {
			kernel = vm.Kernel.Path
		}
		initrd = vm.Kernel.InitRD
		i.cmdline = strings.Join(append([]string{i.cmdline}, vm.Kernel.Parameters...), " ")
	}
	if err := i.openEmbedded(kernel, initrd); err != nil {
		return nil, err
	}
	if kernel != "" {
		if i.kernel, err = vmm.OpenImage(kernel); err != nil {
			return nil, fmt.Errorf("guest kernel: %w", err)
		}
	}
	if initrd != "" {
		if i.initrd, err = vmm.OpenImage(initrd); err != nil {
			return nil, fmt.Errorf("vm.kernel.initrd: %w", err)
		}
	}
	return i, nil
}

// openEmbedded takes from this program what no path names.
func (i *images) openEmbedded(kernel, initrd string) error {
	if kernel != "" && initrd != "" {
		return nil
	}
	assets, err := guestkernel.Open()
	if err != nil {
		return err
	}
	i.kernel = &vmm.Image{ReaderAt: assets.Kernel, Size: assets.Kernel.Size()}
	i.initrd = &vmm.Image{ReaderAt: assets.Initrd, Size: assets.Initrd.Size()}
	return nil
}

// newVM makes the VM with the devices that every guest has, and further ones.
func newVM(cfg *Config, i *images, last *lastWords, further ...virtio.Device) (*vmm.VM, error) {
	memory, err := oci.Memory(cfg.Spec)
	if err != nil {
		return nil, err
	}
	cpus, err := oci.CPUs(cfg.Spec)
	if err != nil {
		return nil, err
	}
	most, err := oci.MaxMemory(cfg.Spec)
	if err != nil {
		return nil, err
	}
	if most <= memory {
		most = 0
	}
	devices := append([]virtio.Device{rng.New(rand.Reader)}, further...)
	return vmm.New(vmm.Config{
		Host: i.host, CPUs: cpus, Memory: memory, MaxMemory: most, Balloon: true, LateMemory: true, LateDevices: cardSlots(len(devices)),
		Kernel: i.kernel, Initrd: i.initrd, Cmdline: i.cmdline,
		Serial:  last,
		Devices: devices,
	})
}

// lastWords keeps the end of what the guest kernel printed: at its log level, why it panicked.
type lastWords struct {
	mu     sync.Mutex
	buf    []byte
	mirror io.Writer // with --debug
}

const lastWordsSize = 8 << 10

// Write implements io.Writer for the serial port.
func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != nil {
		_, _ = l.mirror.Write(p)
	}
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - lastWordsSize; over > 0 {
		l.buf = append(l.buf[:0], l.buf[over:]...)
	}
	return len(p), nil
}

// reason says in one line why the guest ended by itself.
func (l *lastWords) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range strings.Split(string(l.buf), "\n") {
		if _, text, ok := strings.Cut(line, "Kernel panic - not syncing: "); ok {
			return "the guest kernel panicked: " + printable(text)
		}
	}
	return "the guest reset itself"
}

// printable keeps a hostile guest from writing escape sequences to a terminal.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// complain writes the monitor's one line of error to the container's standard error.
func complain(err error) { fmt.Fprintf(os.Stderr, "govmm-run: %v\n", err) }
