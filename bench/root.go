package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is a tmpfs that holds all that is measured, with its libraries, and in which it runs: the test host's own root
// comes from another machine's process, for which nobody's instructions are counted but which is waited for, and under
// icount an idle wait makes the clock run ahead.
const rootDir = "/dev/shm/bench"

// makeRoot fills rootDir from the directory that prepare made, and from the machine.
func makeRoot(from string) error {
	for _, d := range []string{rootDir, rootDir + "/tmp", rootDir + "/run", rootDir + "/etc", rootDir + "/proc", rootDir + "/sys", rootDir + "/dev"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if d == rootDir {
			// A mount of its own: runtimes pivot away from it.
			if err := unix.Mount("bench", rootDir, "tmpfs", 0, "mode=755"); err != nil {
				return fmt.Errorf("mount %s: %w", rootDir, err)
			}
		}
	}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(d, rootDir+d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", d, err)
		}
	}
	for _, f := range []string{"vmlinux", "initrd.cpio", "govmm", "govmm-run"} {
		if err := copyFile(filepath.Join(from, f), filepath.Join(rootDir, f)); err != nil {
			return err
		}
	}
	for _, n := range needed {
		if err := copyProgram(n[0]); err != nil {
			return err
		}
	}
	// What QEMU loads beside itself; other machines' firmware stays away.
	return copyTree("/usr/share/qemu", func(name string) bool {
		return strings.HasPrefix(name, "qboot") || strings.HasPrefix(name, "linuxboot") || strings.HasPrefix(name, "pvh") || strings.HasPrefix(name, "kvmvapic")
	})
}

// copyProgram copies a program and its libraries to the same paths below rootDir.
func copyProgram(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	for _, f := range append([]string{path}, libraries(path)...) {
		if err := copyFile(f, rootDir+f); err != nil {
			return err
		}
	}
	return nil
}

// libraries are the files that ldd names: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", and the loader.
func libraries(path string) []string {
	b, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil // a static program
	}
	return parseLdd(string(b))
}

func parseLdd(text string) []string {
	var out []string
	for _, word := range strings.Fields(text) {
		if strings.HasPrefix(word, "/") {
			out = append(out, word)
		}
	}
	return out
}

func copyTree(dir string, want func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !want(e.Name()) {
			continue
		}
		if err := copyFile(filepath.Join(dir, e.Name()), filepath.Join(rootDir+dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies what a path leads to, and makes the directories above it.
func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// inRoot returns a command that runs in rootDir; it is not looked for elsewhere.
func inRoot(argv ...string) *exec.Cmd {
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp", "HOME=/"}}
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: rootDir, Setpgid: true}
	return cmd
}
