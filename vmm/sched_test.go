package vmm_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/rng"
	"github.com/govmm/govmm/vmm"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// quiet is a network on which nothing happens.
type quiet struct{ net.Link }

func (quiet) Features() uint64 { return 0 }
func (quiet) Pairs() int       { return 1 }

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

// TestPreferVCPUs: once there is a network device the threads of the process are batch threads, the vCPU's is not.
func TestPreferVCPUs(t *testing.T) {
	vmmtest.NeedKVM(t)
	t.Cleanup(func() {
		for tid := range policies(t) {
			_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0)
		}
	})
	vm, err := vmm.New(vmm.Config{Memory: 16 << 20, LateDevices: 2, Protocol: boot.PVH, Kernel: vmmtest.Kernel([]byte{0xeb, 0xfe})}) // jmp .
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Run(t.Context()) }()
	defer func() {
		vm.Close()
		<-ended
	}()
	for end := time.Now().Add(20 * time.Second); vmm.VCPUThread(vm) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the vCPU does not run")
		}
	}
	card, err := net.New(net.Config{Link: quiet{}, MAC: net.MAC{2, 0, 0, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		device virtio.Device
		want   uint32
	}{{rng.New(source{}), unix.SCHED_NORMAL}, {card, unix.SCHED_BATCH}} {
		if err := vm.Attach(step.device); err != nil {
			t.Fatal(err)
		}
		for tid, policy := range policies(t) {
			want := step.want
			if tid == vmm.VCPUThread(vm) {
				want = unix.SCHED_NORMAL
			}
			if policy != want {
				t.Errorf("with device %d thread %d has policy %d, want %d", step.device.ID(), tid, policy, want)
			}
		}
	}
}
