package vmm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// nosy is a device that looks at guest memory when the driver writes to its configuration: on the vCPU's thread.
type nosy struct {
	*rng.Device
	look func()
}

func (n *nosy) Config() []byte             { return make([]byte, 4) }
func (n *nosy) WriteConfig(uint32, []byte) { n.look() }

// TestFaultEndsTheVM takes a page of guest memory away, as failed RAM does, and has the process touch it.
func TestFaultEndsTheVM(t *testing.T) {
	vmmtest.NeedKVM(t)
	var vm *vmm.VM
	device := &nosy{rng.New(strings.NewReader("")), func() {
		_ = vmm.RAM(vm).ReadAt(make([]byte, 1), vmmtest.AvailAddr)
	}}
	for name, code := range map[string][]byte{
		"queue": slices.Concat(vmmtest.DriveQueue(), vmmtest.Spin),
		"vCPU":  slices.Concat(vmmtest.Store(vmmtest.FirstSlot+virtio.RegConfig, 1), vmmtest.Spin),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tinyConfig(code)
			cfg.Devices[0] = device
			var err error
			if vm, err = vmm.New(cfg); err != nil {
				t.Fatal(err)
			}
			defer vm.Close()
			page := vmm.RAM(vm).Host(0)[vmmtest.AvailAddr:][:guestmem.PageSize]
			if err := unix.Mprotect(page, unix.PROT_NONE); err != nil {
				t.Fatal(err)
			}
			var fault *guestmem.FaultError
			if err := vm.Run(t.Context()); !errors.As(err, &fault) || fault.Addr>>12 != vmmtest.AvailAddr>>12 || !strings.Contains(err.Error(), name) {
				t.Errorf("Run: %v, want a fault at %#x that names the %s", err, vmmtest.AvailAddr, name)
			}
		})
	}
}
