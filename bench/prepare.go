package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// needed are the programs that are compared, and the Debian packages they are in.
var needed = [][2]string{
	{"busybox", "busybox-static"}, {"crun", "crun"}, {"runc", "runc"}, {"qemu-system-x86_64", "qemu-system-x86"}, {"ip", "iproute2"},
}

// prepare gathers everything that is measured in one directory, which the measuring process copies to a tmpfs.
func prepare() (dir string, meta Meta, err error) {
	if err := install(); err != nil {
		return "", meta, err
	}
	if dir, err = filepath.Abs(filepath.Join(out, "files")); err != nil {
		return "", meta, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", meta, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", meta, err
	}
	for _, c := range [][]string{
		{"go", "build", "-trimpath", "-o", filepath.Join(dir, "bench"), "./bench"},
		{"go", "run", "./guestkernel/build", "-bare", "-o", filepath.Join(dir, "vmlinux"), "-initrd", filepath.Join(dir, "initrd.cpio")},
		{"cp", "bin/govmm", "bin/govmm-run", dir},
	} {
		if err := run(c[0], c[1:]...); err != nil {
			return "", meta, err
		}
	}
	meta, err = describe(dir)
	return dir, meta, err
}

// install gets what is missing from Debian's packages.
func install() error {
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n[0]); err != nil {
			missing = append(missing, n[1])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintln(os.Stderr, "installing", strings.Join(missing, " "))
	if err := run("apt-get", "update", "-qq"); err != nil {
		return err
	}
	return run("apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...)
}

// describe says what is about to be measured, so that two results can be compared.
func describe(dir string) (Meta, error) {
	m := Meta{
		Date: time.Now().UTC().Format(time.RFC3339), Commit: line("git", "describe", "--always", "--dirty", "--abbrev=12"),
		Go: runtime.Version(), Files: map[string]File{},
	}
	for name, path := range map[string]string{
		"govmm": "bin/govmm", "govmm-run": "bin/govmm-run", "container kernel": "build/vmlinux",
		"bare kernel": filepath.Join(dir, "vmlinux"), "bare initrd": filepath.Join(dir, "initrd.cpio"),
	} {
		f, err := describeFile(path)
		if err != nil {
			return m, err
		}
		m.Files[name] = f
	}
	return m, nil
}

func describeFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return File{Size: n, SHA256: fmt.Sprintf("%x", h.Sum(nil))}, err
}

// line is the first line of a command's output, or nothing.
func line(name string, args ...string) string {
	b, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
