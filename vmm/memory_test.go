package vmm_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// topCode is 64-bit code that adds 1 to the byte at each address and resets.
func topCode(addrs ...guestmem.Addr) (code []byte) {
	for _, a := range addrs {
		code = binary.LittleEndian.AppendUint64(append(code, 0x48, 0xbb), uint64(a)) // mov rbx, a
		code = append(code, 0x80, 0x03, 0x01)                                        // add byte [rbx], 1
	}
	return append(code, vmmtest.Reset...)
}

// mapAll extends the page tables, which reach as far as the kernel, to 8 GiB: the tables' own addresses are the loader's,
// and the guest finds them in CR3 as any other would.
func mapAll(t *testing.T, m *guestmem.Memory) {
	t.Helper()
	const pdpt, directories = 0xa000, 0x40_0000
	put := func(a, entry uint64) {
		if err := m.WriteAt(binary.LittleEndian.AppendUint64(nil, entry), guestmem.Addr(a)); err != nil {
			t.Fatal(err)
		}
	}
	for gib := range uint64(8) {
		put(pdpt+8*gib, directories+gib<<12|3)
		for i := range uint64(512) {
			put(directories+gib<<12+8*i, gib<<30|i<<21|0x83)
		}
	}
}

// TestMemorySizes has the guest change the first and the last byte of each region of RAM.
func TestMemorySizes(t *testing.T) {
	vmmtest.NeedKVM(t)
	const page, mib, gib = 4096, 1 << 20, 1 << 30
	for _, size := range []uint64{8*mib + page, 1 * gib, 1*gib + 3*page, 3*gib - page, 3 * gib, 3*gib + page, 5*gib + 7*page} {
		var addrs []guestmem.Addr
		for _, r := range boot.Layout(size) {
			addrs = append(addrs, r.Base, r.End()-1)
		}
		vm, err := vmm.New(vmm.Config{Memory: size, Kernel: vmmtest.Kernel(topCode(addrs...))})
		if err != nil {
			t.Errorf("%d MiB: %v", size>>20, err)
			continue
		}
		if vm.Memory() != size {
			t.Errorf("%d bytes of memory, want %d", vm.Memory(), size)
		}
		mapAll(t, vmm.RAM(vm))
		if err := vm.Run(t.Context()); !errors.Is(err, vmm.ErrReset) {
			t.Errorf("%d MiB: Run: %v", size>>20, err)
		}
		for _, a := range addrs {
			b := []byte{0}
			if err := vmm.RAM(vm).ReadAt(b, a); err != nil || b[0] != 1 {
				t.Errorf("%#x bytes: the byte at %#x is %d, %v, want 1", size, uint64(a), b[0], err)
			}
		}
		vm.Close()
	}
}
