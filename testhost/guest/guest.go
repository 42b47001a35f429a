// Package guest is the test host's PID 1. The runner's own executable is the
// initramfs's /init, so both ends of the wire are always of one version.
package guest

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/wire"
)

// InitPath is the path of the runner's executable in the initramfs.
const InitPath = "/init"

// Files of the initramfs that the runner writes.
const (
	// ModuleDir holds the modules, ModuleList their names in load order; an
	// empty line parts those that the boot needs from those that can wait.
	ModuleDir  = "/modules"
	ModuleList = "/modules.list"
	// ModuleTree names the directory of the machine that holds the kernel's
	// lib/modules tree.
	ModuleTree = "/modules.tree"
)

// RootTag is the virtio-fs tag of the machine's root file system.
const RootTag = "hostroot"

// IsInit reports whether this process is the test host's PID 1.
func IsInit() bool { return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == InitPath }

// Main is the test host's PID 1; it does not return.
func Main() {
	// Kernel messages go to the serial console; so does a failure of ours.
	fmt.Fprintf(os.Stderr, "\ntesthost: init: %v\n", serve())
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for {
		time.Sleep(time.Hour)
	}
}

// serve works for the runner until the connection fails: the runner ends the
// machine, so there is always an error.
func serve() error {
	warnings, err := setup()
	if err != nil {
		return err
	}
	control, err := openPort(wire.ControlPort)
	if err != nil {
		return err
	}
	stream, err := openPort(wire.StreamPort)
	if err != nil {
		return err
	}
	s := newServer(control, stream)
	ready := wire.ReadyInfo{UptimeMillis: uptime().Milliseconds(), Warnings: warnings}
	if err := s.control.JSON(wire.Ready, ready); err != nil {
		return fmt.Errorf("control port: %w", err)
	}
	return s.run(control, stream)
}

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// openPort opens the virtio-serial port of the given name; the ports appear
// some time after the driver was loaded.
func openPort(name string) (*os.File, error) {
	const class = "/sys/class/virtio-ports"
	for range 500 {
		entries, err := os.ReadDir(class)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			b, err := os.ReadFile(class + "/" + e.Name() + "/name")
			if err == nil && strings.TrimSpace(string(b)) == name {
				return os.OpenFile("/dev/"+e.Name(), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("virtio-serial port %s did not appear", name)
}
