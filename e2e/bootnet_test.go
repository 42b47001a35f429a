package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// initrd packs busybox and an init script for it, and this test under further names in /bin, and returns the archive's path.
func initrd(t *testing.T, script string, selves ...string) string {
	t.Helper()
	root := filepath.Join(scratch(t), "root")
	pack := exec.Command("sh", "-c", `set -e; mkdir -p proc sys dev tmp bin; cp "$0" bin/busybox; find . | cpio -o -H newc >../initrd`,
		need.Program(t, "busybox", "busybox-static"))
	pack.Dir = root
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range selves {
		copyTo(t, filepath.Join(root, "bin", name))
	}
	if err := os.WriteFile(filepath.Join(root, "init"), []byte("#!/bin/busybox sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	return root + "/../initrd"
}

// ownNetwork gives the test's thread a network namespace, which all that it starts is in, with a TAP that stays.
func ownNetwork(t *testing.T, tap string) {
	t.Helper()
	need.TAP(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"link set lo up", "tuntap add dev tap0 mode tap" + tap, "addr add 10.77.0.1/24 dev tap0", "link set tap0 up",
	} {
		run(t, "ip", strings.Fields(args)...)
	}
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
}

// serveOnce lets serve have the first connection to a port, and sends what it says of it.
func serveOnce(t *testing.T, port int, serve func(c net.Conn) (string, error)) <-chan string {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprintf("10.77.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			said <- err.Error()
			return
		}
		defer c.Close()
		s, err := serve(c)
		if err != nil {
			s = err.Error()
		}
		said <- s
	}()
	return said
}

// guestNetwork is what a guest does with its network; it waits for a word of the host's at the end.
const guestNetwork = `
busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys; busybox mount -t devtmpfs dev /dev; busybox mount -t tmpfs tmp /tmp
busybox ip addr add 10.77.0.2/24 dev eth0; busybox ip link set eth0 up
echo "eth0 $(busybox cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /sys/class/net/eth0/speed | busybox tr '\n' ' ')" \
	"queues $(busybox ls -d /sys/class/net/eth0/queues/rx-* | busybox wc -l)"
busybox ping -c 3 -w 20 10.77.0.1 >/dev/null && echo the guest pings
busybox ping -c 1 -w 20 -s 20000 10.77.0.1 >/dev/null && echo the guest pings in fragments
busybox dd if=/dev/urandom of=/tmp/up bs=1M count=24 2>/dev/null
busybox nc 10.77.0.1 9000 </tmp/up
echo "up $(busybox sha256sum </tmp/up)"
echo "down $(busybox nc 10.77.0.1 9001 </dev/null | busybox sha256sum)"
echo the guest is ready
read word
echo "last $word"
busybox reboot -f
`

// TestBootNetwork boots plain VMs on a TAP: pings both ways, and a stream each way that arrives as it was sent.
func TestBootNetwork(t *testing.T) {
	needVM(t)
	for _, tt := range []struct {
		name, tap, options string
		cpus, mtu          int
	}{
		{"one queue", "", "", 1, 1500},
		{"two queues and jumbo frames", " multi_queue", ",queues=2", 2, 9000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ownNetwork(t, tt.tap)
			run(t, "ip", "link", "set", "tap0", "mtu", fmt.Sprint(tt.mtu))
			up := serveOnce(t, 9000, func(c net.Conn) (string, error) {
				h := sha256.New()
				_, err := io.Copy(h, c)
				return fmt.Sprintf("%x", h.Sum(nil)), err
			})
			down := serveOnce(t, 9001, func(c net.Conn) (string, error) {
				h := sha256.New()
				_, err := io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), 24<<20), h))
				return fmt.Sprintf("%x", h.Sum(nil)), err
			})
			cmd := exec.Command(binary(t, "govmm"), "boot", "--initrd", initrd(t, guestNetwork), "--cpus", fmt.Sprint(tt.cpus),
				"--net", "tap=tap0,mac=02:00:5e:10:00:01"+tt.options)
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
			console.await(t, "the guest is ready", 3*time.Minute)
			run(t, "busybox", "ping", "-c", "3", "-w", "20", "10.77.0.2")
			run(t, "busybox", "ping", "-c", "1", "-w", "20", "-s", "20000", "10.77.0.2")
			if _, err := io.WriteString(in, "word\n"); err != nil {
				t.Fatal(err)
			}
			console.await(t, "last word", time.Minute)
			if err := cmd.Wait(); err != nil {
				t.Errorf("govmm boot: %v", err)
			}
			for _, want := range []string{
				fmt.Sprintf("eth0 02:00:5e:10:00:01 %d 10000  queues %d", tt.mtu, tt.cpus), "the guest pings\r\n", "pings in fragments",
				"up " + <-up, "down " + <-down,
			} {
				if !strings.Contains(console.String(), want) {
					t.Errorf("the guest does not say %q:\n%s", want, console)
				}
			}
		})
	}
}
