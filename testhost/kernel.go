package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelMeta depends on the newest kernel image of the flavour.
const kernelMeta = "linux-image-cloud-amd64"

// kernel is an unpacked kernel package in the cache directory.
type kernel struct {
	root    string // where the package is unpacked
	version string
}

func (k kernel) image() string      { return filepath.Join(k.root, "boot", "vmlinuz-"+k.version) }
func (k kernel) moduleTree() string { return filepath.Join(k.root, "lib", "modules", k.version) }

// cacheDir returns the directory of everything that outlives a run.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "govmm", "testhost")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockFile takes an exclusive lock, waiting for it unless try is set. The
// kernel gives it back when this process ends.
func lockFile(path string, try bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if try {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ensureKernel returns the cached kernel, fetching it from Debian's archive
// the first time.
func ensureKernel(cache string, log io.Writer) (kernel, error) {
	lock, err := lockFile(filepath.Join(cache, "kernel.lock"), false)
	if err != nil {
		return kernel{}, fmt.Errorf("lock the kernel cache: %w", err)
	}
	defer lock.Close()
	k := kernel{root: filepath.Join(cache, "kernel")}
	if k.version, err = kernelVersion(k.root); err == nil {
		return k, nil
	}
	if err := fetchKernel(cache, k.root, log); err != nil {
		return kernel{}, fmt.Errorf("fetch Debian's kernel %s: %w", kernelMeta, err)
	}
	k.version, err = kernelVersion(k.root)
	return k, err
}

// kernelVersion returns the version of the kernel unpacked in root.
func kernelVersion(root string) (string, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(images) != 1 {
		return "", fmt.Errorf("%s: %d kernel images, want 1: remove the directory", root, len(images))
	}
	return strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), nil
}

func fetchKernel(cache, root string, log io.Writer) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("this machine has no apt-get")
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	pkg, err := kernelPackage()
	if err != nil {
		if err := apt(log, "update"); err != nil {
			return err
		}
		if pkg, err = kernelPackage(); err != nil {
			return err
		}
	}
	fmt.Fprintf(log, "testhost: downloading %s\n", pkg)
	if err := downloadPackage(work, pkg, log); err != nil {
		return err
	}
	tree := filepath.Join(work, "kernel")
	if err := unpackOnly(work, tree); err != nil {
		return err
	}
	version, err := kernelVersion(tree)
	if err != nil {
		return err
	}
	if out, err := exec.Command(depmodTool.path(), "-b", tree, version).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return os.Rename(tree, root)
}

// downloadPackage fetches into dir; a version that has left the archive since
// the last update of the lists is looked up again.
func downloadPackage(dir, pkg string, log io.Writer) error {
	if aptIn(dir, log, "download", pkg) == nil {
		return nil
	}
	if err := apt(log, "update"); err != nil {
		return err
	}
	return aptIn(dir, log, "download", pkg)
}

var dependsLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+)$`)

// kernelPackage asks apt which package the meta package stands for.
func kernelPackage() (string, error) {
	cmd := exec.Command("apt-cache", "depends", kernelMeta)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w", kernelMeta, err)
	}
	m := dependsLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt-cache depends %s names no kernel", kernelMeta)
	}
	return string(m[1]), nil
}

// Modules: bootModules carry the root file system and the ports; the others
// are inserted while the root is being mounted.
var (
	bootModules  = []string{"virtio_pci", "virtiofs", "overlay", "virtio_console", "virtio_blk"}
	laterModules = []string{"kvm_amd", "vhost_vsock", "vhost_net", "tun", "loop", "virtio_rng"}
)

// moduleOrder returns the module files of names in load order.
func moduleOrder(k kernel, names []string) ([]string, error) {
	args := append([]string{"-d", k.root, "-S", k.version, "--show-depends", "-a"}, names...)
	out, err := exec.Command(modprobeTool.path(), args...).Output()
	if err != nil {
		return nil, fmt.Errorf("modprobe --show-depends: %w", err)
	}
	return parseShowDepends(string(out))
}

// parseShowDepends reads `modprobe --show-depends`: lines of "insmod FILE
// [OPTION...]" and "builtin NAME". A file named again keeps its first place.
func parseShowDepends(out string) ([]string, error) {
	var files []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "builtin":
		case len(f) >= 2 && f[0] == "insmod":
			if !slices.Contains(files, f[1]) {
				files = append(files, f[1])
			}
		default:
			return nil, fmt.Errorf("modprobe --show-depends: unexpected line %q", strings.TrimSpace(line))
		}
	}
	return files, nil
}
