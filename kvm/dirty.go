package kvm

import "runtime"

// DirtyLog is KVM_GET_DIRTY_LOG, KVM API 4.8: it fills bitmap with one bit for each page of the slot written since the
// last call (bit 0 of the first word is the slot's first page), and clears them in KVM unless
// CapManualDirtyLogProtect2 is enabled. bitmap must hold the slot's pages, rounded up to 64.
func (vm *VM) DirtyLog(slot uint32, bitmap []uint64) error {
	arg := dirtyLog{Slot: slot, Bitmap: addressOf(bitmap)}
	err := set(vm.fd, "KVM_GET_DIRTY_LOG", kvmGetDirtyLog, &arg)
	runtime.KeepAlive(bitmap)
	return err
}

// ClearDirtyLog is KVM_CLEAR_DIRTY_LOG, KVM API 4.117: it write-protects anew the pages whose bits are set. first is a
// multiple of 64, and so is pages unless it reaches the end of the slot.
func (vm *VM) ClearDirtyLog(slot uint32, first uint64, pages uint32, bitmap []uint64) error {
	arg := clearDirtyLog{Slot: slot, NumPages: pages, FirstPage: first, Bitmap: addressOf(bitmap)}
	err := set(vm.fd, "KVM_CLEAR_DIRTY_LOG", kvmClearDirtyLog, &arg)
	runtime.KeepAlive(bitmap)
	return err
}

// ResetDirtyRings is KVM_RESET_DIRTY_RINGS, KVM API 8.29: it gives KVM back what was taken from the rings of all vCPUs, and
// returns how many entries that were.
func (vm *VM) ResetDirtyRings() (int, error) {
	return vm.fd.ioctl("KVM_RESET_DIRTY_RINGS", kvmResetDirtyRings, 0)
}
