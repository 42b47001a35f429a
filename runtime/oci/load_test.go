package oci

//lint:file-ignore SA1019 prestart hooks are deprecated, and carried out

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bundle writes spec, changed by edit, as the config of a new bundle with an empty root file system.
func bundle(t *testing.T, edit func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := Example()
	if edit != nil {
		edit(spec)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExampleLoads(t *testing.T) {
	dir := bundle(t, nil)
	spec, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "rootfs"); spec.Root.Path != want {
		t.Errorf("root %q, want %q", spec.Root.Path, want)
	}
}

func ptr(n int64) *int64 { return &n }

func add(s *specs.Spec, ns specs.LinuxNamespace) { s.Linux.Namespaces = append(s.Linux.Namespaces, ns) }

func remove(s *specs.Spec, t specs.LinuxNamespaceType) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
}

// TestLoadAcceptsNothing has what engines write where they ask for nothing.
func TestLoadAcceptsNothing(t *testing.T) {
	dir := bundle(t, func(s *specs.Spec) {
		no, zero16 := false, uint16(0)
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{}}
		s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{Weight: &zero16}
		s.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: &no, KernelTCP: ptr(0), Limit: ptr(-1), Swap: ptr(-1)}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(0), Shares: new(uint64)}
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{}
		s.Linux.UIDMappings = []specs.LinuxIDMapping{}
		s.Annotations = map[string]string{"org.example": "x"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "x/../y", Type: "tmpfs"})
	})
	path := filepath.Join(dir, ConfigFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// runtime-spec, config.md: extensibility: an unknown property is no error.
	b = append([]byte(`{"someday": {"deep": 1},`), b[1:]...)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Mounts[len(spec.Mounts)-1].Destination; got != "/y" {
		t.Errorf("a relative destination became %q", got)
	}
}

func TestExecRefuses(t *testing.T) {
	for _, tt := range []struct {
		p    *specs.Process
		want string
	}{
		{nil, "process property must not be empty"},
		{&specs.Process{Cwd: "/"}, "process args cannot be empty"},
		{&specs.Process{Args: []string{"x"}, Cwd: "tmp"}, "Cwd must be an absolute path"},
		{&specs.Process{Args: []string{"x"}, Cwd: "/", IOPriority: &specs.LinuxIOPriority{}}, "invalid ioPriority.Class: "},
	} {
		if err := ValidateProcess(tt.p); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}

func TestSizes(t *testing.T) {
	host := runtime.NumCPU()
	for _, tt := range []struct {
		cpu    specs.LinuxCPU
		limit  int64
		cpus   int
		memory uint64
	}{
		{specs.LinuxCPU{}, 0, min(host, maxCPUs), DefaultMemory},
		{specs.LinuxCPU{Quota: ptr(50000)}, 15 << 20, 1, 146 << 20}, // (15 + 128) MiB / 63 * 64, to whole huge pages
		{specs.LinuxCPU{Quota: ptr(100001)}, -1, min(2, host), DefaultMemory},
		{specs.LinuxCPU{Quota: ptr(math.MaxInt64)}, 1 << 30, min(host, maxCPUs), 1172 << 20},
		{specs.LinuxCPU{Cpus: "0"}, 0, 1, DefaultMemory},
		{specs.LinuxCPU{Cpus: "0", Quota: ptr(300000)}, 0, 1, DefaultMemory},
		{specs.LinuxCPU{Cpus: "0-1,1"}, 0, min(2, host), DefaultMemory},
	} {
		spec := Example()
		spec.Linux.Resources = &specs.LinuxResources{CPU: &tt.cpu, Memory: &specs.LinuxMemory{Limit: &tt.limit}}
		cpus, err := CPUs(spec)
		memory, err2 := Memory(spec)
		if err != nil || err2 != nil || cpus != tt.cpus || memory != tt.memory {
			t.Errorf("%+v: %d CPUs, %v; %d bytes, %v; want %d and %d", tt.cpu, cpus, err, memory, err2, tt.cpus, tt.memory)
		}
	}
}

// TestMaxMemory: a guest may get what the host has, or what the annotation says, but if its RAM is fixed.
func TestMaxMemory(t *testing.T) {
	most := (RAMFor(HostRAM()) + pageSize - 1) &^ (pageSize - 1)
	for text, want := range map[string]uint64{"": most, "1G": min(1<<30, HostRAM()), "65536G": HostRAM()} {
		spec := Example()
		if text != "" {
			spec.Annotations = map[string]string{AnnotationMaxMemory: text}
		}
		if got, err := MaxMemory(spec); err != nil || got != want {
			t.Errorf("%q: up to %d bytes, %v, want %d", text, got, err, want)
		}
	}
	spec := Example()
	spec.Annotations = map[string]string{AnnotationMemory: "1G"}
	if got, err := MaxMemory(spec); err != nil || got != 0 {
		t.Errorf("with fixed RAM: up to %d bytes, %v", got, err)
	}
	if !AsksForMemory(Example()) {
		t.Error("a guest without a limit does not ask for memory")
	}
	spec.Annotations = map[string]string{AnnotationMaxMemory: "much"}
	if _, err := MaxMemory(spec); err == nil {
		t.Error("much is taken for a size")
	}
}

func TestUnknownCapabilities(t *testing.T) {
	p := &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_LUCK"}, Effective: []string{"CAP_LUCK"}}}
	if got := UnknownCapabilities(p); len(got) != 1 || got[0] != "CAP_LUCK" {
		t.Errorf("unknown: %q", got)
	}
	if capabilitySet(p.Capabilities.Bounding) != 1<<5 {
		t.Errorf("set %#x, want that of CAP_KILL alone", capabilitySet(p.Capabilities.Bounding))
	}
}

func TestLoadRefuses(t *testing.T) {
	limit, yes := int64(1), true
	for _, tt := range []struct {
		name string
		edit func(*specs.Spec)
		want string
	}{
		{"version", func(s *specs.Spec) { s.Version = "2.0.0" }, `unsupported ociVersion "2.0.0"`},
		{"no process", func(s *specs.Spec) { s.Process = nil }, "process property must not be empty"},
		{"no args", func(s *specs.Spec) { s.Process.Args = nil }, "process args cannot be empty"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, "Cwd must be an absolute path"},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "root.path is missing"},
		{"root that is not there", func(s *specs.Spec) { s.Root.Path = "nope" }, "invalid rootfs"},
		{"host root", func(s *specs.Spec) { s.Root.Path = "/" }, "host's own root"},
		{"seccomp", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify} }, "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is not supported"},
		{"relative hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "true"}}} }, `hooks.poststop[0]: path "true" is not absolute`},
		{"hook without time", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/x"}, {Path: "/x", Timeout: new(int)}}}
		}, "hooks.prestart[1]: timeout 0 is not"},
		{"hook with a NUL", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/x", Env: []string{"a\x00b"}}}}
		}, "holds a NUL byte"},
		{"hook of a shared kernel", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/usr/bin/nvidia-ctk", Args: []string{"nvidia-ctk", "hook"}}}}
		}, "hooks.createContainer[0]: nvidia-ctk works only where container and host share a kernel"},
		{"such a hook in a wrapper", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "/opt/nvidia-container-runtime-hook", "prestart"}}}}
		}, "hooks.prestart[0]: nvidia-container-runtime-hook works only"},
		{"such a hook in the guest", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/usr/bin/nvidia-cdi-hook"}}}
		}, "hooks.startContainer[0]: nvidia-cdi-hook works only"},
		{"deep field", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: &yes}
		}, "config field linux.resources.memory.disableOOMKiller is not supported yet"},
		{"field of a list", func(s *specs.Spec) {
			s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		}, "config field mounts[0].uidMappings is not supported yet"},
		{"file that is a path", func(s *specs.Spec) {
			s.Linux.Resources.Unified = map[string]string{"memory.high/../../x": "1"}
		}, `linux.resources.unified: "memory.high/../../x" is not a cgroup's file`},
		{"file's limit", func(s *specs.Spec) {
			s.Linux.Resources.Unified = map[string]string{"memory.max": "much"}
		}, `linux.resources.unified: memory.max: "much" is neither a number nor max`},
		{"real time", func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: &limit}
		}, "config field linux.resources.cpu.realtimeRuntime is not supported yet"},
		{"network device", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth/1": {}}
		}, `linux.netDevices: invalid network device name "eth/1"`},
		{"network device's new name", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {Name: "sixteen-letters-"}}
		}, `linux.netDevices: invalid network device name "sixteen-letters-"`},
		{"limit", func(s *specs.Spec) {
			s.Annotations = map[string]string{AnnotationNetworkLimit: "rate=10M,ops=lots"}
		}, `annotation io.govmm.networkLimit: "lots" is not a rate`},
		{"limit of nothing", func(s *specs.Spec) {
			s.Annotations = map[string]string{AnnotationDiskLimit: "10M"}
		}, `annotation io.govmm.diskLimit: "10M" is no limit: write rate=N`},
		{"resctrl", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} }, "config field linux.intelRdt is not supported yet"},
		{"time offsets without a namespace", func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}}
		}, "time namespace offsets specified, but time namespace isn't enabled in the config"},
		{"clock without offset", func(s *specs.Spec) {
			add(s, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
		}, `linux.timeOffsets: "realtime" is no clock of a time namespace`},
		{"nanoseconds", func(s *specs.Spec) {
			add(s, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Nanosecs: 1e9}}
		}, "monotonic: 1000000000 nanoseconds are a second or more"},
		{"user maps", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "config field linux.uidMappings is not supported yet"},
		{"hypervisor", func(s *specs.Spec) { s.VM = &specs.VM{Hypervisor: specs.VMHypervisor{Path: "/x"}} }, "config field vm.hypervisor is not supported yet"},
		{"guest image", func(s *specs.Spec) { s.VM = &specs.VM{Image: specs.VMImage{Path: "/x"}} }, "config field vm.image is not supported yet"},
		{"relative kernel", func(s *specs.Spec) { s.VM = &specs.VM{Kernel: specs.VMKernel{Path: "k"}} }, `vm.kernel.path: "k" is not an absolute path`},
		{"missing initrd", func(s *specs.Spec) { s.VM = &specs.VM{Kernel: specs.VMKernel{InitRD: "/nope"}} }, "vm.kernel.initrd: stat /nope: no such file"},
		{"annotation of ours", func(s *specs.Spec) { s.Annotations = map[string]string{"io.govmm.cpu": "1"} }, "annotation io.govmm.cpu is unknown"},
		{"no network", func(s *specs.Spec) { s.Annotations = map[string]string{AnnotationNetwork: "bridge"} }, `annotation io.govmm.network: "bridge" is no network: write user`},
		{"no port", func(s *specs.Spec) { s.Annotations = map[string]string{AnnotationNetwork: "user,publish=80"} }, "annotation io.govmm.network: publish=80: write publish="},
		{"no CPUs", func(s *specs.Spec) { s.Annotations = map[string]string{AnnotationCPUs: "0"} }, `io.govmm.cpus: "0" is not a number between 1 and`},
		{"0 CPUs in vm", func(s *specs.Spec) { s.VM = &specs.VM{HwConfig: &specs.HWConfig{VCPUs: new(uint32)}} }, "vm.hwConfig.vcpus: 0 is not between 1 and"},
		{"memory too small", func(s *specs.Spec) { s.Annotations = map[string]string{AnnotationMemory: "1M"} }, "is too small: at least 64 MiB"},
		{"memory no number", func(s *specs.Spec) { s.Annotations = map[string]string{AnnotationMemory: "-1"} }, `"-1" is not a size`},
		{"negative limit", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(-2)}
		}, "linux.resources.memory.limit: -2 is not a size"},
		{"swap below memory", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(2 << 20), Swap: ptr(1 << 20)}
		}, "memory+swap limit 1048576 should be >= memory limit 2097152"},
		{"negative processes", func(s *specs.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(-9)} }, "linux.resources.pids.limit: -9"},
		{"negative quota", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(-5)} }, "linux.resources.cpu.quota: -5"},
		{"CPU list", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "1-"} }, `linux.resources.cpu.cpus: "1-" is not a list such as 0-2,7`},
		{"node list", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Mems: "a"} }, `linux.resources.cpu.mems: "a" is not a list`},
		{"climbing sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../../x": "1"} }, `linux.sysctl: invalid key "net/../../x"`},
		{"absolute sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"/etc/passwd": "1"} }, `linux.sysctl: invalid key "/etc/passwd"`},
		{"long host name", func(s *specs.Spec) { s.Hostname = strings.Repeat("h", 65) }, "is longer than 64 bytes"},
		{"NUL in args", func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} }, "holds a NUL byte"},
		{"empty program", func(s *specs.Spec) { s.Process.Args = []string{""} }, "process args cannot be empty"},
		{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, "Cwd property must not be empty"},
		{"rlimit twice", func(s *specs.Spec) {
			s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0])
		}, "rlimit RLIMIT_NOFILE is given twice"},
		{"rlimit upside down", func(s *specs.Spec) { s.Process.Rlimits[0].Hard = 5 }, "rlimit RLIMIT_NOFILE: the soft limit 1024 is above the hard limit 5"},
		{"oomScoreAdj", func(s *specs.Spec) { n := 1001; s.Process.OOMScoreAdj = &n }, "process.oomScoreAdj: 1001 is not between"},
		{"host pid namespace by path", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/self/ns/pid" }, "the pid namespace /proc/self/ns/pid is the host's"},
		{"namespace of another type", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/self/ns/uts" }, "failed to setns into pid namespace: /proc/self/ns/uts is a uts namespace"},
		{"no namespace", func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/dev/null" }, "failed to setns into ipc namespace: /dev/null is no namespace"},
		{"namespace that is not there", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/nope" }, "namespace path: open /nope: no such file or directory"},
		{"path of a mount namespace", func(s *specs.Spec) { s.Linux.Namespaces[4].Path = "/proc/self/ns/mnt" }, "joining a mount namespace is not possible: the guest has its own"},
		{"path of a time namespace", func(s *specs.Spec) {
			add(s, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/self/ns/time"})
		}, "joining a time namespace is not possible: the guest has its own"},
		{"host name for the host", func(s *specs.Spec) { remove(s, specs.UTSNamespace) }, "unable to set hostname without a private UTS namespace"},
		{"host name for the host by path", func(s *specs.Spec) { s.Linux.Namespaces[3].Path = "/proc/self/ns/uts" }, "unable to set hostname without a private UTS namespace"},
		{"domain name for the host", func(s *specs.Spec) {
			remove(s, specs.UTSNamespace)
			s.Hostname, s.Domainname = "", "d"
		}, "unable to set domainname without a private UTS namespace"},
		{"host network", func(s *specs.Spec) { remove(s, specs.NetworkNamespace) }, "use --network none in place of --network host"},
		{"host ipc", func(s *specs.Spec) { remove(s, specs.IPCNamespace) }, "leave --ipc=host out"},
		{"no linux section", func(s *specs.Spec) { s.Linux = nil }, "linux section is missing"},
		{"mount without destination", func(s *specs.Spec) { s.Mounts[0].Destination = "" }, "a mount has no destination"},
		{"host root by another name", func(s *specs.Spec) { s.Root.Path = "/./" }, "host's own root"},
		{"root that is a file", func(s *specs.Spec) { s.Root.Path = "config.json" }, "config.json is not a directory"},
		{"user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, "user namespace is not supported yet"},
		{"host pid namespace", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "no pid namespace"},
		{"namespace twice", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0])
		}, "duplicated ns"},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_LUCK" }, "invalid rlimit type: RLIMIT_LUCK"},
		{"shared propagation", func(s *specs.Spec) {
			s.Linux.RootfsPropagation = "rshared"
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/tmp", Options: []string{"rshared"}})
		}, "cannot cross the boundary of a VM"},
		{"bind with data", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/tmp", Options: []string{"size=1"}})
		}, "bind mounts cannot have filesystem-specific options: size=1"},
		{"bind source that is not there", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/nope"})
		}, "/nope: no such file or directory"},
		{"file system type", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nfs"})
		}, `file system type "nfs" is not supported`},
	} {
		_, err := Load(bundle(t, tt.edit))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func TestLoadBadFiles(t *testing.T) {
	if _, err := Load(t.TempDir()); err == nil || err.Error() != "JSON specification file config.json not found" {
		t.Errorf("no config: %v", err)
	}
	if _, err := Load("/nope"); err == nil || err.Error() != "bundle /nope: no such file or directory" {
		t.Errorf("no bundle: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(`{"ociVersion": "1.0.2",]`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "invalid character") || !strings.Contains(err.Error(), "at byte 24") {
		t.Errorf("malformed config: %v", err)
	}
}

func TestParseMount(t *testing.T) {
	m, err := ParseMount(specs.Mount{Destination: "/d", Type: "tmpfs", Source: "tmpfs", Options: []string{
		"nosuid", "ro", "rw", "size=64k", "mode=755", "rro", "rslave", "tmpcopyup",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if m.Flags != unix.MS_NOSUID || m.Clear != unix.MS_RDONLY || m.Data != "size=64k,mode=755" || !m.CopyUp ||
		m.RecursiveAttr != unix.MOUNT_ATTR_RDONLY || m.Propagation != unix.MS_SLAVE|unix.MS_REC {
		t.Errorf("parsed %+v", m)
	}
}

func FuzzLoad(f *testing.F) {
	b, err := json.Marshal(Example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["x"],"cwd":"/"},"linux":{"namespaces":[{"type":"pid"}]}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o644); err != nil {
			t.Fatal(err)
		}
		spec, err := Load(dir)
		if err == nil && (spec.Process == nil || len(spec.Process.Args) == 0 || spec.Linux == nil) {
			t.Errorf("accepted a config without what it needs: %s", config)
		}
	})
}
