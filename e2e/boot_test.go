package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// debianDisk is the directory that scripts/debian-disk made: Debian's own cloud kernel, initramfs, and an ext4 disk.
func debianDisk(t *testing.T) string {
	t.Helper()
	needVM(t)
	dir := os.Getenv("GOVMM_DEBIAN_DISK")
	if dir == "" {
		t.Fatal("GOVMM_DEBIAN_DISK is not set: run `make test`")
	}
	return dir
}

// transcript collects a console's output and lets a test wait for a text in it.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *transcript) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *transcript) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func (c *transcript) await(t *testing.T, text string, limit time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(limit); !bytes.Contains([]byte(c.String()), []byte(text)); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q on the console within %v:\n%s", text, limit, c)
		}
	}
}

// Debian boots unmodified, from its own kernel, initramfs and root disk, to a login on the console, and takes input.
func TestDebianToLogin(t *testing.T) {
	disk := debianDisk(t)
	for _, cpus := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d CPUs", cpus), func(t *testing.T) {
			image := filepath.Join(scratch(t), "disk.img")
			if out, err := exec.Command("cp", "--sparse=always", filepath.Join(disk, "disk.img"), image).CombinedOutput(); err != nil {
				t.Fatalf("cp: %s", out)
			}
			cmd := exec.Command(binary(t, "govmm"), "boot", "--kernel", filepath.Join(disk, "vmlinuz"),
				"--initrd", filepath.Join(disk, "initrd.img"), "--disk", image, "--cpus", fmt.Sprint(cpus), "--memory", "1G",
				"--cmdline", "console=ttyS0 root=/dev/vda rw")
			console := &transcript{}
			cmd.Stdout, cmd.Stderr = console, console
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			console.await(t, "govmm-guest login:", 5*time.Minute)
			if _, err := io.WriteString(in, "nobody-here\n"); err != nil {
				t.Fatal(err)
			}
			console.await(t, "Password:", time.Minute)
			// Ctrl-A x ends the VM.
			if _, err := io.WriteString(in, "\x01x"); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("govmm boot: %v", err)
			}
		})
	}
}
