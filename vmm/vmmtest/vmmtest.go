// Package vmmtest makes kernels of a few bytes of machine code, with which tests run whole VMs wherever KVM opens, also
// where it could not run Linux.
package vmmtest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/vmm"
)

// NeedKVM skips the test where there is no KVM; any will do, as the guests are a few instructions.
func NeedKVM(t testing.TB) {
	t.Helper()
	h, err := vmm.OpenHost("")
	if err == nil {
		h.Close()
		return
	}
	need.Lacking(t, need.KVM, "KVM: %v", err)
}

// Base is where the code of a tiny guest lies.
const Base = 0x20_0000

// Kernel is an ELF image with nothing but code. It can be entered in 64-bit mode, as Linux, or in 32-bit protected
// mode without paging, as a PVH guest.
func Kernel(code []byte) *vmm.Image {
	const headers, prog = 64, 56
	le := binary.LittleEndian
	note := le.AppendUint32(nil, 4) // the name's length
	note = le.AppendUint32(note, 4) // the descriptor's
	note = le.AppendUint32(note, 18)
	note = append(note, "Xen\x00"...)
	note = le.AppendUint32(note, Base)
	b := make([]byte, headers+2*prog)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[24:], Base)
	le.PutUint64(b[32:], headers)
	le.PutUint16(b[54:], prog)
	le.PutUint16(b[56:], 2)
	for i, p := range []struct {
		kind uint32
		addr uint64
		data []byte
	}{{1, Base, code}, {4, 0, note}} {
		h := b[headers+i*prog:][:prog]
		le.PutUint32(h, p.kind)
		le.PutUint64(h[8:], uint64(len(b)))
		le.PutUint64(h[24:], p.addr)
		le.PutUint64(h[32:], uint64(len(p.data)))
		le.PutUint64(h[40:], uint64(len(p.data)))
		le.PutUint64(h[48:], 4)
		b = append(b, p.data...)
	}
	return &vmm.Image{ReaderAt: bytes.NewReader(b), Size: int64(len(b))}
}

// Code for 32-bit protected mode.
var (
	Spin  = []byte{0xeb, 0xfe}                               // jmp to itself
	Exit  = []byte{0xe6, 0x80, 0xeb, 0xfc}                   // out 0x80, al; jmp back
	Halt  = []byte{0xf4, 0xeb, 0xfd}                         // hlt; jmp back; interrupts are off
	Phase = []byte{0x66, 0xba, 0xf0, 0x03, 0xee, 0xeb, 0xfd} // mov dx, 0x3f0; out dx, al; jmp back
	Reset = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4}             // mov al, 0xfe; out 0x64, al; hlt
)

// Store is a mov of an immediate word to an address, in 32-bit mode.
func Store(addr, value uint32) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{0xc7, 0x05}, addr)
	return binary.LittleEndian.AppendUint32(b, value)
}

// FirstSlot is the guest-physical address of the first virtio device's registers.
const FirstSlot = 0xd000_0000

// Where DriveQueue puts the parts of a queue.
const (
	DescAddr  = 0x30_0000
	AvailAddr = 0x30_1000
	UsedAddr  = 0x30_2000
)

// DriveQueue is code that brings the first device to DRIVER_OK with its queue 0.
func DriveQueue() (code []byte) {
	for _, r := range [][2]uint32{
		{0x70, 1}, {0x70, 3}, // ACKNOWLEDGE, DRIVER
		{0x24, 1}, {0x20, 1}, // VIRTIO_F_VERSION_1
		{0x70, 0xb}, // FEATURES_OK
		{0x30, 0}, {0x38, 8},
		{0x80, DescAddr}, {0x90, AvailAddr}, {0xa0, UsedAddr},
		{0x44, 1},   // QueueReady
		{0x70, 0xf}, // DRIVER_OK
	} {
		code = append(code, Store(FirstSlot+r[0], r[1])...)
	}
	return code
}

// Notify notifies queue 0 of the first device for ever.
func Notify() []byte {
	s := Store(FirstSlot+0x50, 0)
	return append(s, 0xeb, byte(-len(s)-2))
}
