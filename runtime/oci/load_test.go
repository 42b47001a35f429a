package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
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

func TestLoadRefuses(t *testing.T) {
	limit := int64(1)
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
		{"seccomp", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow} }, "config field linux.seccomp is not supported yet"},
		{"hooks", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true"}}} }, "config field hooks is not supported yet"},
		{"deep field", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{KernelTCP: &limit}
		}, "config field linux.resources.memory.kernelTCP is not supported yet"},
		{"field of a list", func(s *specs.Spec) {
			s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		}, "config field mounts[0].uidMappings is not supported yet"},
		{"user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, "user namespace is not supported yet"},
		{"host pid namespace", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "no pid namespace"},
		{"namespace twice", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0])
		}, "duplicated ns"},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_LUCK" }, "invalid rlimit type: RLIMIT_LUCK"},
		{"shared propagation", func(s *specs.Spec) {
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
