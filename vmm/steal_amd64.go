package vmm

import (
	"encoding/binary"
	"time"

	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/kvm"
)

// What a CPU's steal time record holds, and the register that tells where it is: Linux, Documentation/virt/kvm/x86/msr.rst,
// MSR_KVM_STEAL_TIME.
const (
	stealEnabled = 1 << 0 // of the register; bits 63 to 6 are the record's address
	stealAddr    = ^guestmem.Addr(63)
	stealVersion = 8 // offset of the version, which is odd while the record changes; the time, in ns, is at 0
)

// steal tells the guest that for a while the host did not run this CPU. KVM counts the time for which the thread waits
// for a CPU of the host's, not that of a pause, which the guest would take for the work of whoever was running, and a
// limit of CPU time would have to be paid off for as many times longer. Called on the CPU's thread. A guest that has no
// such record, or puts it where there is no memory, goes without.
func (c *vcpu) steal(d time.Duration) {
	msrs, err := c.kvm.MSRs([]uint32{kvm.MSRKVMStealTime})
	if err != nil || len(msrs) != 1 || msrs[0].Data&stealEnabled == 0 {
		return
	}
	at := guestmem.Addr(msrs[0].Data) & stealAddr
	var record [12]byte
	if c.vm.mem.ReadAt(record[:], at) != nil {
		return
	}
	version := binary.LittleEndian.Uint32(record[stealVersion:]) | 1
	stolen := binary.LittleEndian.Uint64(record[:]) + uint64(d)
	put := func(field []byte, offset guestmem.Addr) { _ = c.vm.mem.WriteAt(field, at+offset) }
	put(binary.LittleEndian.AppendUint32(nil, version), stealVersion)
	put(binary.LittleEndian.AppendUint64(nil, stolen), 0)
	put(binary.LittleEndian.AppendUint32(nil, version+1), stealVersion)
}
