package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tool is a program that the test host needs and the Debian package it is in.
type tool struct {
	paths []string // the first that exists is used
	pkg   string
}

// Programs of other packages; dpkg-deb and apt-get are on every Debian.
var (
	qemuTool     = tool{[]string{"/usr/bin/qemu-system-x86_64"}, "qemu-system-x86"}
	virtiofsTool = tool{[]string{"/usr/lib/qemu/virtiofsd"}, "qemu-system-common"}
	mkfsTool     = tool{[]string{"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"}, "e2fsprogs"}
	modprobeTool = tool{[]string{"/usr/sbin/modprobe", "/sbin/modprobe"}, "kmod"}
	depmodTool   = tool{[]string{"/usr/sbin/depmod", "/sbin/depmod"}, "kmod"}
	allTools     = []tool{qemuTool, virtiofsTool, mkfsTool, modprobeTool, depmodTool}
)

func (t tool) path() string {
	for _, p := range t.paths {
		if fi, err := os.Stat(p); err == nil && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// missingPackages names the packages of the tools that are not there.
func missingPackages(tools []tool) []string {
	var pkgs []string
	for _, t := range tools {
		if t.path() == "" && !slices.Contains(pkgs, t.pkg) {
			pkgs = append(pkgs, t.pkg)
		}
	}
	return pkgs
}

// ensureTools installs what is missing and says so.
func ensureTools(log io.Writer) error {
	pkgs := missingPackages(allTools)
	if len(pkgs) == 0 {
		return nil
	}
	names := strings.Join(pkgs, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing Debian packages: %s: install them as root with: apt-get install %s", names, names)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing packages %s, and this machine has no apt-get: install QEMU with TCG for x86_64, virtiofsd, e2fsprogs and kmod", names)
	}
	fmt.Fprintf(log, "testhost: installing Debian packages: %s\n", names)
	install := append([]string{"install", "-y", "--no-install-recommends"}, pkgs...)
	if apt(log, install...) != nil {
		// Stale or absent package lists are the usual cause.
		if err := apt(log, "update"); err != nil {
			return fmt.Errorf("missing packages %s: %w", names, err)
		}
		if err := apt(log, install...); err != nil {
			return fmt.Errorf("missing packages %s: %w", names, err)
		}
	}
	if left := missingPackages(allTools); len(left) > 0 {
		return fmt.Errorf("packages %s are installed but lack the expected programs: the test host is made for Debian 12", strings.Join(left, " "))
	}
	return nil
}

// apt runs apt-get; its output is shown only when it fails.
func apt(log io.Writer, args ...string) error { return aptIn("", log, args...) }

func aptIn(dir string, log io.Writer, args ...string) error {
	cmd := exec.Command("apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		fmt.Fprintf(log, "testhost: apt-get %s: %v\n%s", strings.Join(args, " "), err, out)
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	return nil
}
