package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/govmm/govmm/testhost/aptsource"
)

// goodQEMU is the first major version whose emulated AMD-V is trusted, once it is
// mended (mendEmulator). Under 7.2, which Debian 12 has, busy guests reset
// themselves or panic in their exception entry, and so does the test host's own
// kernel, several times in ten runs of a file-system suite; whether the mending
// alone would have helped there was not tried.
const goodQEMU = 8

// ensureEmulator returns the QEMU to run: the installed one if it is new
// enough, else the one of Debian's backports, which is unpacked in the cache
// directory and leaves the installed packages as they are. It runs with the
// libraries and firmware of the installed one.
func ensureEmulator(cache string, log io.Writer) (string, error) {
	lock, err := lockFile(filepath.Join(cache, "qemu.lock"), false)
	if err != nil {
		return "", fmt.Errorf("lock the emulator's cache: %w", err)
	}
	defer lock.Close()
	root := filepath.Join(cache, "qemu")
	unpacked := filepath.Join(root, qemuTool.paths[0])
	if _, err := os.Stat(unpacked); err == nil {
		return unpacked, nil
	}
	installed := qemuTool.path()
	version, err := qemuVersion(installed)
	if err != nil {
		return "", err
	}
	if version >= goodQEMU {
		return installed, nil
	}
	if err := fetchEmulator(cache, root, log); err != nil {
		fmt.Fprintf(log, "testhost: no QEMU %d or later from Debian's backports (%v): going on with %d, under which guests may crash\n",
			goodQEMU, err, version)
		return installed, nil
	}
	return unpacked, nil
}

var qemuVersionLine = regexp.MustCompile(`(?m)^QEMU emulator version (\d+)\.`)

// qemuVersion returns the major version of the emulator at path.
func qemuVersion(path string) (int, error) {
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w: %s", path, err, bytes.TrimSpace(out))
	}
	m := qemuVersionLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s --version says %q", path, out)
	}
	return strconv.Atoi(string(m[1]))
}

// fetchEmulator unpacks the emulator of Debian's backports in root, if it
// runs here.
func fetchEmulator(cache, root string, log io.Writer) error {
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	options, err := aptsource.Only(work, "deb", "-backports")
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "testhost: downloading %s from Debian's backports\n", qemuTool.pkg)
	if err := apt(log, append(options, "update")...); err != nil {
		return err
	}
	if err := aptIn(work, log, append(options, "download", qemuTool.pkg)...); err != nil {
		return err
	}
	tree := filepath.Join(work, "qemu")
	if err := unpackOnly(work, tree); err != nil {
		return err
	}
	version, err := qemuVersion(filepath.Join(tree, qemuTool.paths[0]))
	if err != nil {
		return err
	}
	if version < goodQEMU {
		return fmt.Errorf("it is version %d there, too", version)
	}
	return os.Rename(tree, root)
}

// unpackOnly unpacks the only package in dir to tree.
func unpackOnly(dir, tree string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(debs))
	}
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], tree).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb -x: %w: %s", err, out)
	}
	return nil
}
