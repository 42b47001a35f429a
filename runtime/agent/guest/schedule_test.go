package guest_test

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// TestScheduling looks at a container's process from inside: policy, nice value, CPUs and personality are in
// /proc/self, the I/O priority is what ionice says.
func TestScheduling(t *testing.T) {
	f := start(t)
	m := f.spec("sh", "-c", `cat /proc/self/personality; busybox ionice; busybox uname -m
		while read name value; do case $name in Cpus_allowed_list:) echo $value;; esac; done < /proc/self/status
		read stat < /proc/self/stat; set -- ${stat#*) }; echo nice ${17} policy ${39}`)
	m.Process.Scheduler = agent.Scheduler{Set: true, Policy: unix.SCHED_BATCH, Nice: 5}
	m.Process.IOPriority = 2<<13 | 6
	m.Process.Personality = 8
	m.Process.CPUs = 1 | 1<<63
	got := f.run(m, nil)
	want := "00000008\nbest-effort: prio 6\ni686\n0\nnice 5 policy 3\n"
	if got.stdout != want || got.stderr != "" {
		t.Errorf("got %q, want %q; stderr %q", got.stdout, want, got.stderr)
	}
	m = f.spec("true")
	m.Process.CPUs = 1 << 62
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "set CPU affinity to the mask 0x4000000000000000: invalid argument") {
		t.Errorf("a CPU that is not there: %v", err)
	}
	m = f.spec("true")
	m.Process.Scheduler = agent.Scheduler{Set: true, Policy: 77}
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "set scheduler: sched_setattr: invalid argument") {
		t.Errorf("a policy that does not exist: %v", err)
	}
}

// TestExecScheduling has the same for a process of exec, whose container has none of it.
func TestExecScheduling(t *testing.T) {
	f := start(t)
	_, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	p := f.process("sh", "-c", "cat /proc/self/personality; read stat < /proc/self/stat; set -- ${stat#*) }; echo ${17}; busybox ionice")
	p.Personality, p.Scheduler, p.IOPriority, p.CPUs = 8, agent.Scheduler{Set: true, Nice: 7}, 3<<13, 1
	var out bytes.Buffer
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: p}, stdio{stdout: &out})
	must(t, err)
	_, err = e.Wait(f.ctx)
	must(t, err)
	e.out.Wait()
	if want := "00000008\n7\nidle\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// TestPropagation has each propagation of the root, and of a bind mount, in mountinfo's optional fields.
func TestPropagation(t *testing.T) {
	f := start(t)
	f.export("1", map[string]string{"file": ""})
	for _, tt := range []struct {
		flags uint64
		want  string
	}{
		{0, "-"}, {unix.MS_PRIVATE | unix.MS_REC, "-"}, {unix.MS_SLAVE, "-"}, {unix.MS_SHARED, "shared"}, {unix.MS_UNBINDABLE | unix.MS_REC, "unbindable"},
	} {
		m := f.spec("sh", "-c", "while read a b c d point f optional rest; do case $point in / | /vol) echo $point ${optional%%:*} ;; esac; done < /proc/self/mountinfo")
		m.Rootfs.Propagation = tt.flags
		m.Mounts = append(m.Mounts, agent.Mount{Bind: true, Source: "/c/1", Target: "/vol", Propagation: tt.flags})
		if got := f.run(m, nil); got.stdout != "/ "+tt.want+"\n/vol "+tt.want+"\n" || got.stderr != "" {
			t.Errorf("%#x: got %+v, want %s", tt.flags, got, tt.want)
		}
	}
}

// TestOwnDevices has a config's node in place of the default one.
func TestOwnDevices(t *testing.T) {
	f := start(t)
	m := f.spec("sh", "-c", "stat -c '%n %F %a %u %g %t %T' /dev/null /dev/sub/zero /run/pipe")
	m.Devices = []agent.Device{
		{Path: "/dev/null", Mode: unix.S_IFCHR | 0o600, Major: 1, Minor: 3, UID: 5, GID: 6},
		{Path: "/dev/sub/zero", Mode: unix.S_IFCHR | 0o662, Major: 1, Minor: 5},
		{Path: "/run/pipe", Mode: unix.S_IFIFO | 0o640, GID: 7},
	}
	got := f.run(m, nil)
	want := "/dev/null character special file 600 5 6 1 3\n/dev/sub/zero character special file 662 0 0 1 5\n/run/pipe fifo 640 0 7 0 0\n"
	if got.stdout != want {
		t.Errorf("got %q, want %q; stderr %q", got.stdout, want, got.stderr)
	}
}
