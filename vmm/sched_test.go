package vmm_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// busy is a device that can say so.
type busy struct {
	virtio.Device
	transport virtio.Transport
}

func (b *busy) Attach(t virtio.Transport) { b.transport = t }

// policies returns the scheduling policy of each thread of this process.
func policies(t *testing.T) map[int]uint32 {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]uint32{}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if a, err := unix.SchedGetAttr(tid, 0); err == nil {
			out[tid] = a.Policy
		}
	}
	return out
}

// setAll gives each thread of this process a policy.
func setAll(t *testing.T, policy uint32) {
	t.Helper()
	for tid := range policies(t) {
		_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0)
	}
}

// TestPreferVCPUs: once a device calls itself busy the threads of the process are batch threads, the vCPU's is not.
func TestPreferVCPUs(t *testing.T) {
	d, vcpu := busyVM(t)
	for _, others := range []uint32{unix.SCHED_NORMAL, unix.SCHED_BATCH} {
		for tid, policy := range policies(t) {
			want := others
			if tid == vcpu {
				want = unix.SCHED_NORMAL
			}
			if policy != want {
				t.Errorf("thread %d has policy %d, want %d", tid, policy, want)
			}
		}
		d.transport.Busy()
	}
}

// TestChosenPolicy: a policy that somebody has chosen for the process stays, for the vCPU as for the others.
func TestChosenPolicy(t *testing.T) {
	d, _ := busyVM(t)
	setAll(t, unix.SCHED_BATCH)
	d.transport.Busy()
	for tid, policy := range policies(t) {
		if policy != unix.SCHED_BATCH {
			t.Errorf("thread %d has policy %d", tid, policy)
		}
	}
}

// busyVM runs a VM with a device that can call itself busy, and returns it and the vCPU's thread.
func busyVM(t *testing.T) (d *busy, vcpu int) {
	t.Helper()
	vmmtest.NeedKVM(t)
	t.Cleanup(func() { setAll(t, unix.SCHED_NORMAL) })
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, LateDevices: 1, Protocol: boot.PVH, Kernel: vmmtest.Kernel([]byte{0xeb, 0xfe})}) // jmp .
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Run(t.Context()) }()
	t.Cleanup(func() {
		vm.Close()
		<-ended
	})
	for end := time.Now().Add(20 * time.Second); vmm.VCPUThread(vm) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the vCPU does not run")
		}
	}
	d = &busy{Device: rng.New(source{})}
	if err := vm.Attach(d); err != nil {
		t.Fatal(err)
	}
	return d, vmm.VCPUThread(vm)
}
