package vmm

import "errors"

// Pause stops every vCPU and returns when none runs guest code. Devices finish what they were asked for. The guest's
// clocks go on, as the host's do, so they are right when it is resumed.
func (v *VM) Pause() error {
	v.pause.Lock()
	defer v.pause.Unlock()
	for _, c := range v.cpus {
		c.request(pauseRequest)
	}
	for _, c := range v.cpus {
		if !c.waitParked() {
			return errors.New("the VM ended")
		}
		// So that the guest's soft-lockup watchdog forgives the gap. Guests without kvm-clock refuse it: no harm.
		_ = c.kvm.KVMClockCtrl()
	}
	return nil
}

// Resume lets a paused VM go on.
func (v *VM) Resume() {
	v.pause.Lock()
	defer v.pause.Unlock()
	for _, c := range v.cpus {
		c.request(runRequest)
	}
}

// waitParked waits until the thread is parked; false says that the VM is ending instead.
func (c *vcpu) waitParked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.parked {
		if request(c.want.Load()) != pauseRequest {
			return false
		}
		c.change.Wait()
	}
	return true
}
