// Package oci reads a bundle's config.json and says what govmm-run makes of it: what the guest carries out, what the
// host does, and what is refused, by name.
package oci

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/specjson"
)

// ConfigFile is the name of the config in a bundle.
const ConfigFile = "config.json"

// Load reads and checks the config of the bundle in dir, which must be absolute. Paths in the result are absolute.
func Load(dir string) (*specs.Spec, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", dir, errors.Unwrap(err))
	}
	f, err := os.Open(filepath.Join(dir, ConfigFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", ConfigFile)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var spec specs.Spec
	dec := json.NewDecoder(f)
	if err := dec.Decode(specjson.Spec(specjson.Read, &spec)); err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigFile, describe(specjson.Describe(err)))
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return nil, errors.New("config.json: root.path is missing: name the root file system's directory")
	}
	makeAbsolute(&spec, dir)
	replaceShm(spec.Mounts)
	if err := Validate(&spec); err != nil {
		return nil, err
	}
	return &spec, nil
}

// makeAbsolute resolves what a config may say relative to its bundle; a mount's destination is relative to the
// container's root (runtime-spec, config.md: mounts, before 1.1).
func makeAbsolute(spec *specs.Spec, dir string) {
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(dir, spec.Root.Path)
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if isBind(*m) && !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(dir, m.Source)
		}
		if m.Destination != "" {
			m.Destination = filepath.Join("/", m.Destination)
		}
	}
}

// describe adds the place of the mistake to a JSON error.
func describe(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%w at byte %d", err, syntax.Offset)
	}
	return err
}

// Validate refuses what cannot or must not be carried out. It looks at the host only for the root file system and
// the sources of mounts.
func Validate(spec *specs.Spec) error {
	if !strings.HasPrefix(spec.Version, "1.") {
		return fmt.Errorf("config.json: unsupported ociVersion %q: govmm-run reads 1.x", spec.Version)
	}
	if err := checkFields(spec); err != nil {
		return err
	}
	if err := checkHooks(spec.Hooks); err != nil {
		return err
	}
	if err := checkSeccomp(spec.Linux); err != nil {
		return err
	}
	if err := checkRoot(spec.Root.Path); err != nil {
		return err
	}
	if err := checkProcess(spec.Process); err != nil {
		return err
	}
	if err := checkMounts(spec.Mounts); err != nil {
		return err
	}
	if len(spec.Hostname) > maxHostname {
		return fmt.Errorf("hostname %q is longer than %d bytes", spec.Hostname, maxHostname)
	}
	if err := checkLinux(spec.Linux); err != nil {
		return err
	}
	if err := checkPropagation(spec.Mounts, spec.Linux.RootfsPropagation); err != nil {
		return err
	}
	if err := checkNamespaces(spec); err != nil {
		return err
	}
	return checkVM(spec)
}

// maxHostname is what sethostname(2) takes (__NEW_UTS_LEN).
const maxHostname = 64

func checkRoot(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("invalid rootfs: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("invalid rootfs: %s is not a directory", path)
	}
	if host, err := os.Stat("/"); err == nil && os.SameFile(st, host) {
		return errors.New("invalid rootfs: the host's own root cannot be a container's")
	}
	return nil
}

// checkProcess is also used for the process of exec.
func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process args cannot be empty")
	case p.Cwd == "":
		return errors.New("Cwd property must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("Cwd must be an absolute path")
	}
	for _, list := range [][]string{p.Args, p.Env} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return fmt.Errorf("process: %q holds a NUL byte", v)
			}
		}
	}
	if a := p.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return fmt.Errorf("process.oomScoreAdj: %d is not between -1000 and 1000", *a)
	}
	if err := checkScheduler(p.Scheduler); err != nil {
		return err
	}
	if err := checkIOPriority(p.IOPriority); err != nil {
		return err
	}
	if _, err := execAffinity(p.ExecCPUAffinity); err != nil {
		return err
	}
	if err := checkLabels(p.SelinuxLabel, ""); err != nil {
		return err
	}
	return checkRlimits(p.Rlimits)
}

func checkRlimits(list []specs.POSIXRlimit) error {
	seen := map[string]bool{}
	for _, r := range list {
		if _, ok := rlimits[r.Type]; !ok {
			return fmt.Errorf("invalid rlimit type: %s", r.Type)
		}
		if seen[r.Type] {
			return fmt.Errorf("rlimit %s is given twice", r.Type)
		}
		seen[r.Type] = true
		if r.Soft > r.Hard {
			return fmt.Errorf("rlimit %s: the soft limit %d is above the hard limit %d", r.Type, r.Soft, r.Hard)
		}
	}
	return nil
}

func checkMounts(mounts []specs.Mount) error {
	for _, m := range mounts {
		if m.Destination == "" {
			return errors.New("config.json: a mount has no destination")
		}
		if _, err := ParseMount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		if isBind(m) {
			if _, err := os.Lstat(m.Source); err != nil {
				return fmt.Errorf("mount %s: %w", m.Destination, err)
			}
		}
	}
	return nil
}

func checkLinux(l *specs.Linux) error {
	if l == nil {
		return errors.New("config.json: linux section is missing: the container's namespaces stand there")
	}
	for key := range l.Sysctl {
		if key == "" || key[0] == '/' || key[0] == '.' || strings.Contains(key, "..") || strings.IndexByte(key, 0) >= 0 {
			return fmt.Errorf("linux.sysctl: invalid key %q", key)
		}
	}
	for name, device := range l.NetDevices {
		for _, n := range []string{name, cmp.Or(device.Name, name)} {
			if !validInterface(n) {
				return fmt.Errorf("linux.netDevices: invalid network device name %q", n)
			}
		}
	}
	if propagations[l.RootfsPropagation] == 0 && l.RootfsPropagation != "" {
		return fmt.Errorf("linux.rootfsPropagation: %q is not a propagation such as private", l.RootfsPropagation)
	}
	if err := checkPersonality(l.Personality); err != nil {
		return err
	}
	if err := checkLabels("", l.MountLabel); err != nil {
		return err
	}
	if err := checkDeviceRules(l.Resources); err != nil {
		return err
	}
	if err := checkDevices(l); err != nil {
		return err
	}
	return checkResources(l.Resources)
}

// validInterface says whether the kernel takes a name for an interface (dev_valid_name).
func validInterface(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

// ValidateProcess checks the process of an exec.
func ValidateProcess(p *specs.Process) error {
	if p == nil {
		return errors.New("process property must not be empty")
	}
	if err := checkProcessFields(p); err != nil {
		return err
	}
	return checkProcess(p)
}
