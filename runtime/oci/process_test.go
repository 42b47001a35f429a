package oci

import (
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/testhost/need"
)

func TestProcessFields(t *testing.T) {
	spec := Example()
	spec.Process.Scheduler = &specs.Scheduler{
		Policy: specs.SchedDeadline, Nice: -3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork, specs.SchedFlagUtilClampMax},
		Runtime: 1, Deadline: 2, Period: 3,
	}
	spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 5}
	spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-1", Final: "1,3-4,63-70"}
	spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	init, err := GuestProcess(spec.Process, spec.Linux)
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Scheduler{Set: true, Policy: 6, Flags: 0x41, Nice: -3, Runtime: 1, Deadline: 2, Period: 3}
	if init.Scheduler != want || init.IOPriority != 2<<13|5 || init.Personality != 8 || init.CPUs != 0 {
		t.Errorf("init: %+v, %#x, %d, %#x", init.Scheduler, init.IOPriority, init.Personality, init.CPUs)
	}
	for _, tt := range []struct {
		own  *specs.CPUAffinity
		want uint64
	}{
		{nil, 1<<63 | 0b11010}, {&specs.CPUAffinity{}, 0}, {&specs.CPUAffinity{Initial: "2"}, 4}, {&specs.CPUAffinity{Final: "0"}, 1},
	} {
		p := &specs.Process{Args: []string{"x"}, Cwd: "/", ExecCPUAffinity: tt.own}
		got, err := GuestExec(p, spec)
		if err != nil || got.CPUs != tt.want || got.Personality != 8 || got.Scheduler.Set {
			t.Errorf("exec with %+v: %+v, %v; want the CPUs %#x", tt.own, got, err, tt.want)
		}
	}
}

func TestProcessFieldsRefused(t *testing.T) {
	scheduler := func(s specs.Scheduler) func(*specs.Spec) {
		return func(spec *specs.Spec) { spec.Process.Scheduler = &s }
	}
	priority := func(class specs.IOPriorityClass, n int) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: class, Priority: n} }
	}
	for _, tt := range []struct {
		edit func(*specs.Spec)
		want string
	}{
		{scheduler(specs.Scheduler{Nice: 1}), "scheduler policy is required"},
		{scheduler(specs.Scheduler{Policy: specs.SchedISO}), "invalid scheduler policy: SCHED_ISO"},
		{scheduler(specs.Scheduler{Policy: specs.SchedBatch, Nice: 20}), "invalid scheduler.nice: 20"},
		{scheduler(specs.Scheduler{Policy: specs.SchedBatch, Priority: 1}), "scheduler.priority can only be specified for"},
		{scheduler(specs.Scheduler{Policy: specs.SchedFIFO, Priority: 100}), "invalid scheduler.priority: 100"},
		{scheduler(specs.Scheduler{Policy: specs.SchedFIFO, Period: 1}), "runtime/deadline/period can only be specified for SchedDeadline"},
		{scheduler(specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"X"}}), "invalid scheduler flag: X"},
		{priority("IOPRIO_CLASS_X", 1), "invalid ioPriority.Class: IOPRIO_CLASS_X"},
		{priority(specs.IOPRIO_CLASS_RT, 8), "invalid ioPriority.Priority: 8"},
		{priority(specs.IOPRIO_CLASS_RT, -1), "invalid ioPriority.Priority: -1"},
		{func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "a"} }, `process.execCPUAffinity.initial: "a" is not a list`},
		{func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "64-99"} }, `process.execCPUAffinity.final: no CPU of "64-99"`},
		{func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} }, "invalid personality domain: X"},
		{func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"X"}}
		}, "config field linux.personality.flags is not supported yet"},
		{func(s *specs.Spec) { s.Linux.RootfsPropagation = "public" }, `linux.rootfsPropagation: "public" is not`},
	} {
		if _, err := Load(bundle(t, tt.edit)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}

// TestIgnored has what engines fill in on some hosts, and what is meant for other systems.
func TestIgnored(t *testing.T) {
	hostHasAll(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel = "docker-default", "a", "b"
		s.Process.User.Username, s.Process.CommandLine = "u", "c"
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/sda", Type: "b", Major: 8}}
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		s.Windows = &specs.Windows{LayerFolders: []string{"x"}}
		s.FreeBSD, s.Solaris, s.ZOS = &specs.FreeBSD{Devices: []specs.FreeBSDDevice{{Path: "x"}}}, &specs.Solaris{Milestone: "x"}, &specs.ZOS{}
	})
	defer func(real func() bool) { selinux = real }(selinux)
	selinux = func() bool { return false }
	spec, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(Ignored(spec), "\n"); got != `process.apparmorProfile docker-default
process.selinuxLabel a
linux.mountLabel b
linux.memoryPolicy MPOL_BIND: the guest has one node
linux.devices that the guest has no driver for: /dev/sda` {
		t.Errorf("ignored:\n%s", got)
	}
	selinux = func() bool { return true }
	if err := Validate(spec); err == nil || !strings.Contains(err.Error(), "config field process.selinuxLabel is not supported yet") {
		t.Errorf("a label where SELinux is on: %v", err)
	}
	spec.Process.SelinuxLabel = ""
	if err := Validate(spec); err == nil || !strings.Contains(err.Error(), "config field linux.mountLabel is not supported yet") {
		t.Errorf("a mount label where SELinux is on: %v", err)
	}
}

// hostHasAll has the host know every device of a config, as the machine did for which an engine wrote it.
func hostHasAll(t testing.TB) {
	t.Helper()
	old := onHost
	onHost = func(specs.LinuxDevice) bool { return true }
	t.Cleanup(func() { onHost = old })
}

// TestNobodysDevice makes nodes behind which neither the host nor the guest has a device.
func TestNobodysDevice(t *testing.T) {
	l := &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/test1", Type: "c", Major: 10, Minor: 666}, {Path: "/dev/test2", Type: "b", Major: 8, Minor: 666}}}
	if err := checkDevices(l); err != nil || len(guestDeviceList(l)) != 2 || len(skippedDevices(l)) != 0 {
		t.Errorf("%v: %v is made, %v not", err, guestDeviceList(l), skippedDevices(l))
	}
	for _, d := range []specs.LinuxDevice{{Path: "/x", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/null", Type: "u", Major: 1, Minor: 3}} {
		if !onHost(d) {
			t.Errorf("%v is not on the host", d)
		}
	}
	hostHasAll(t)
	if err := checkDevices(l); err == nil {
		t.Error("a device that the host has and the guest has not is made")
	}
}

func TestDevices(t *testing.T) {
	hostHasAll(t)
	mode, own := deviceMode(0o20644), uint32(7)
	spec := Example()
	spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/net/../net/tun", Type: "u", Major: 10, Minor: 200, FileMode: mode, UID: &own, GID: &own},
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5},
		{Path: "/run/pipe", Type: "p", Major: 99, FileMode: deviceMode(0o600)},
		{Path: "/dev/loop3", Type: "b", Major: 7, Minor: 3},
	}
	if err := checkDevices(spec.Linux); err != nil {
		t.Fatal(err)
	}
	want := []agent.Device{
		{Path: "/dev/net/tun", Mode: unix.S_IFCHR | 0o644, Major: 10, Minor: 200, UID: 7, GID: 7},
		{Path: "/dev/mine", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
		{Path: "/run/pipe", Mode: unix.S_IFIFO | 0o600},
		{Path: "/dev/loop3", Mode: unix.S_IFBLK | 0o666, Major: 7, Minor: 3},
	}
	for i, got := range guestDeviceList(spec.Linux) {
		if got != want[i] {
			t.Errorf("device %+v, want %+v", got, want[i])
		}
	}
	for _, tt := range []struct {
		d    specs.LinuxDevice
		want string
	}{
		{specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}, "/dev/kvm: the guest kernel has no driver for character device 10:232"},
		{specs.LinuxDevice{Path: "dev/null", Type: "c", Major: 1, Minor: 3}, `path "dev/null" is not absolute`},
		{specs.LinuxDevice{Path: "/", Type: "p"}, `path "/" is not absolute`},
		{specs.LinuxDevice{Path: "/dev/x", Type: "x"}, `/dev/x: type "x" is not one of`},
		{specs.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: -3}, "/dev/x: there is no device 1:-3"},
	} {
		spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, tt.d}
		if err := checkDevices(spec.Linux); err == nil || !strings.Contains(err.Error(), "linux.devices[1]: "+tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}

// TestDisks has the last rule about a device decide, for reading and for writing.
func TestDisks(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	spec := Example()
	spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
		{Path: "/dev/data/../data", Type: "b", Major: 8, Minor: 1},
		{Path: "/dev/seed", Type: "b", Major: 7, Minor: 2},
		{Path: "/dev/secret", Type: "b", Major: 8, Minor: 3},
	}
	spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "b", Major: number(8), Access: "rw"},
		{Allow: false, Type: "b", Major: number(8), Minor: number(3)},
		{Allow: true, Type: "b", Major: number(7), Minor: number(2), Access: "rm"},
		{Allow: true, Type: "c", Major: number(8), Minor: number(3), Access: "rwm"},
	}}
	if err := checkDevices(spec.Linux); err != nil {
		t.Fatal(err)
	}
	want := []Disk{{"govmm-dev1", "/dev/data", 8, 1, false}, {"govmm-dev2", "/dev/seed", 7, 2, true}}
	if got := Disks(spec.Linux); !slices.Equal(got, want) {
		t.Errorf("disks %+v, want %+v", got, want)
	}
	var nodes []string
	for _, d := range guestDeviceList(spec.Linux) {
		nodes = append(nodes, d.Path+" "+d.Disk)
	}
	if got := strings.Join(nodes, ","); got != "/dev/null ,/dev/data govmm-dev1,/dev/seed govmm-dev2,/dev/secret " {
		t.Errorf("nodes %s", got)
	}
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
	if got := Disks(spec.Linux); got != nil {
		t.Errorf("a privileged container gets %+v", got)
	}
	spec.Linux.Resources = nil
	if got := Disks(spec.Linux); got != nil {
		t.Errorf("without a rule: %+v", got)
	}
}

// TestDeviceRules leaves nothing of what a rule about all devices makes moot, and gives a disk a rule of its own.
func TestDeviceRules(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	denyAll, allowAll := specs.LinuxDeviceCgroup{Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: true, Type: "a", Major: number(7), Access: "rwm"}
	kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(1), Minor: number(11), Access: "rw"}
	loops := specs.LinuxDeviceCgroup{Type: "b", Major: number(7), Minor: number(-3), Access: "ma"}
	disk := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: number(8), Minor: number(1), Access: "r"}
	all := agent.DeviceRule{Allow: true, Major: -1, Minor: -1, Access: agent.DeviceAll}
	read := agent.DeviceRule{Major: -1, Minor: -1, Access: agent.DeviceRead}
	for _, tt := range []struct {
		rules   []specs.LinuxDeviceCgroup
		devices []specs.LinuxDevice
		want    []agent.DeviceRule
	}{
		{nil, nil, nil},
		{[]specs.LinuxDeviceCgroup{kmsg, denyAll}, nil, nil},
		{[]specs.LinuxDeviceCgroup{denyAll, kmsg, loops}, nil, []agent.DeviceRule{
			{Allow: true, Kind: unix.S_IFCHR, Major: 1, Minor: 11, Access: agent.DeviceRead | agent.DeviceWrite},
			{Kind: unix.S_IFBLK, Major: 7, Minor: -1, Access: agent.DeviceMknod},
		}},
		{[]specs.LinuxDeviceCgroup{kmsg, allowAll, {Access: "r"}}, nil, []agent.DeviceRule{all, read}},
		{[]specs.LinuxDeviceCgroup{denyAll, disk}, []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8, Minor: 1}}, []agent.DeviceRule{
			{Allow: true, Kind: unix.S_IFBLK, Major: 8, Minor: 1, Access: agent.DeviceRead},
			{Allow: true, Kind: unix.S_IFBLK, Access: agent.DeviceRead | agent.DeviceMknod, Disk: "govmm-dev0"},
		}},
		{[]specs.LinuxDeviceCgroup{{Allow: true}}, []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8, Minor: 1}}, []agent.DeviceRule{
			all, {Allow: true, Kind: unix.S_IFBLK, Access: agent.DeviceAll, Disk: "govmm-dev0"},
		}},
	} {
		l := &specs.Linux{Devices: tt.devices, Resources: &specs.LinuxResources{Devices: tt.rules}}
		if err := checkDeviceRules(l.Resources); err != nil {
			t.Errorf("%+v: %v", tt.rules, err)
		}
		if got := guestDeviceRules(l); !slices.Equal(got, tt.want) {
			t.Errorf("%+v becomes %+v, want %+v", tt.rules, got, tt.want)
		}
	}
	for _, tt := range []struct {
		rule specs.LinuxDeviceCgroup
		want string
	}{
		{specs.LinuxDeviceCgroup{Type: "p"}, `linux.resources.devices[1]: type "p" is not one of a, b and c`},
		{specs.LinuxDeviceCgroup{Type: "x", Access: "r"}, `linux.resources.devices[1]: type "x" is not one of a, b and c`},
	} {
		err := checkLinux(&specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{denyAll, tt.rule}}})
		if err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}

func deviceMode(m os.FileMode) *os.FileMode { return &m }

// TestShm has the tmpfs that engines bind on /dev/shm become the guest's, and nothing else.
func TestShm(t *testing.T) {
	need.Root(t)
	shm, other := t.TempDir(), t.TempDir()
	if err := unix.Mount("shm", shm, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shm, unix.MNT_DETACH) })
	mounts := []specs.Mount{
		{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rshared", "nosuid", "ro"}},
		{Destination: "/other", Type: "bind", Source: shm},
		{Destination: "/dev/shm", Type: "bind", Source: "/nowhere", Options: []string{"rbind"}},
	}
	var st unix.Statfs_t
	if err := unix.Statfs(other, &st); err != nil {
		t.Fatal(err)
	}
	replaceShm(mounts)
	if m := mounts[0]; m.Type != "tmpfs" || m.Source != "shm" || strings.Join(m.Options, " ") != "nosuid ro mode=1777 size=131072" {
		t.Errorf("the shm became %+v", m)
	}
	if !isBind(mounts[1]) || !isBind(mounts[2]) {
		t.Errorf("further mounts became %+v", mounts[1:])
	}
}

// TestMountOptions wants every option that runc knows (runc features, 1.5) to be known here.
func TestMountOptions(t *testing.T) {
	runc := strings.Fields(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
		noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime
		rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw
		rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup
		unbindable acl noacl`)
	ours := Features().MountOptions
	for _, o := range runc {
		if !slices.Contains(ours, o) {
			t.Errorf("features does not list %s", o)
		}
		m := specs.Mount{Destination: "/x", Type: "tmpfs", Source: "tmpfs", Options: []string{o}}
		if got, err := ParseMount(m); err != nil || got.Data != "" {
			t.Errorf("%s: %+v, %v", o, got, err)
		}
	}
	for o, want := range map[string]string{
		"idmap": `"idmap" is not supported yet`, "ridmap": `"ridmap" is not supported yet`, "remount": "remount is not supported",
	} {
		m := specs.Mount{Destination: "/x", Type: "bind", Source: "/tmp", Options: []string{"rbind", o}}
		if _, err := ParseMount(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", o, err, want)
		}
	}
	m, err := ParseMount(specs.Mount{Destination: "/x", Type: "bind", Options: []string{"rbind", "rnoatime", "ratime", "rstrictatime", "rnosymfollow", "rsuid"}})
	if err != nil || m.RecursiveAttr != unix.MOUNT_ATTR_STRICTATIME|unix.MOUNT_ATTR_NOSYMFOLLOW ||
		m.RecursiveClear != unix.MOUNT_ATTR__ATIME|unix.MOUNT_ATTR_NOSUID {
		t.Errorf("recursive attributes %#x and %#x, %v", m.RecursiveAttr, m.RecursiveClear, err)
	}
}

// TestAmbient raises only what the kernel lets be raised.
func TestAmbient(t *testing.T) {
	spec := Example()
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: []string{"CAP_CHOWN", "CAP_KILL", "CAP_FOWNER"}, Permitted: []string{"CAP_CHOWN", "CAP_KILL"},
		Inheritable: []string{"CAP_KILL", "CAP_FOWNER"}, Ambient: []string{"CAP_CHOWN", "CAP_KILL", "CAP_FOWNER"},
	}
	p, err := GuestProcess(spec.Process, spec.Linux)
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(1 << unix.CAP_KILL); p.Capabilities.Ambient != want {
		t.Errorf("ambient %#x, want %#x", p.Capabilities.Ambient, want)
	}
}
