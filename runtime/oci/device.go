package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// A deviceRange is a range of minor numbers of one major.
type deviceRange struct {
	kind        uint32 // S_IFCHR or S_IFBLK
	major       int64
	first, last int64
}

// guestDevices are the numbers behind which the guest kernel has a driver (Documentation/admin-guide/devices.txt). A
// node of them is the guest's own device, not the host's.
var guestDevices = []deviceRange{
	{unix.S_IFCHR, 1, 3, 3},          // null
	{unix.S_IFCHR, 1, 5, 5},          // zero
	{unix.S_IFCHR, 1, 7, 9},          // full, random, urandom
	{unix.S_IFCHR, 1, 11, 11},        // kmsg
	{unix.S_IFCHR, 5, 0, 2},          // tty, console, ptmx
	{unix.S_IFCHR, 10, 183, 183},     // hwrng
	{unix.S_IFCHR, 10, 200, 200},     // net/tun
	{unix.S_IFCHR, 10, 229, 229},     // fuse
	{unix.S_IFCHR, 10, 237, 237},     // loop-control
	{unix.S_IFCHR, 136, 0, maxMinor}, // pts/*
	{unix.S_IFBLK, 7, 0, maxMinor},   // loop*
}

const (
	maxMajor = 1<<12 - 1 // MINORBITS of <linux/kdev_t.h>
	maxMinor = 1<<20 - 1
)

// deviceKinds are the types of a device node (runtime-spec, config-linux.md: Devices).
var deviceKinds = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

func hasDriver(d specs.LinuxDevice) bool {
	kind := deviceKinds[d.Type]
	if kind == unix.S_IFIFO {
		return true
	}
	for _, r := range guestDevices {
		if r.kind == kind && r.major == d.Major && r.first <= d.Minor && d.Minor <= r.last {
			return true
		}
	}
	return false
}

// onHost says whether this machine has a character device of that number: it knows it, or has the node itself, behind which a
// driver may be loaded when it is opened. A test replaces it.
var onHost = func(d specs.LinuxDevice) bool {
	if _, err := os.Lstat(fmt.Sprintf("/sys/dev/char/%d:%d", d.Major, d.Minor)); err == nil {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(d.Path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor))
}

// canMake says whether a node in the guest is what it would be on the host: one that has a driver there, or none on either.
func canMake(d specs.LinuxDevice) bool {
	return hasDriver(d) || deviceKinds[d.Type] == unix.S_IFCHR && !onHost(d)
}

// privileged says whether the devices were listed wholesale, as engines' --privileged does with all that the host has:
// then access to all devices is allowed too.
func privileged(l *specs.Linux) bool {
	if l.Resources == nil {
		return false
	}
	for _, d := range l.Resources.Devices {
		if d.Allow && (d.Type == "" || d.Type == "a") && (d.Major == nil || *d.Major < 0) && (d.Minor == nil || *d.Minor < 0) && strings.Contains(d.Access, "m") {
			return true
		}
	}
	return false
}

func checkDevices(l *specs.Linux) error {
	for i, d := range l.Devices {
		if err := checkDevice(d); err != nil {
			return fmt.Errorf("linux.devices[%d]: %w", i, err)
		}
		if canMake(d) || privileged(l) {
			continue
		}
		if deviceKinds[d.Type] == unix.S_IFBLK {
			continue // see Disks
		}
		return fmt.Errorf("linux.devices[%d]: %s: the guest kernel has no driver for character device %d:%d", i, d.Path, d.Major, d.Minor)
	}
	return nil
}

func checkDevice(d specs.LinuxDevice) error {
	switch _, known := deviceKinds[d.Type]; {
	case !filepath.IsAbs(d.Path) || filepath.Clean(d.Path) == "/" || strings.IndexByte(d.Path, 0) >= 0:
		return fmt.Errorf("path %q is not absolute", d.Path)
	case !known:
		return fmt.Errorf("%s: type %q is not one of c, u, b and p", d.Path, d.Type)
	case d.Type != "p" && (d.Major < 0 || d.Major > maxMajor || d.Minor < 0 || d.Minor > maxMinor):
		return fmt.Errorf("%s: there is no device %d:%d", d.Path, d.Major, d.Minor)
	}
	return nil
}

// defaultDeviceMode is that of a node whose config has none, as under runc.
const defaultDeviceMode os.FileMode = 0o666

// A Disk is a block device of the host that a container was given by name: the guest sees it through virtio-blk.
type Disk struct {
	Serial       string // the virtio device's, by which the guest finds it
	Path         string // the node in the container
	Major, Minor uint32 // on the host
	ReadOnly     bool
}

// Disks lists the block devices of a checked config that the container may at least read. Those of a privileged container are
// not among them: it is given all that the host has, where nobody asked for one of them.
func Disks(l *specs.Linux) []Disk {
	if privileged(l) {
		return nil
	}
	var out []Disk
	for i, d := range l.Devices {
		access := deviceAccess(l, d)
		if deviceKinds[d.Type] != unix.S_IFBLK || !strings.Contains(access, "r") {
			continue
		}
		out = append(out, Disk{
			Serial: diskSerial(i), Path: filepath.Clean(d.Path), Major: uint32(d.Major), Minor: uint32(d.Minor),
			ReadOnly: !strings.Contains(access, "w"),
		})
	}
	return out
}

func diskSerial(i int) string { return "govmm-dev" + strconv.Itoa(i) }

// deviceAccess says which of r and w linux.resources.devices leave for a device: the last rule about each counts, and what no
// rule is about is denied (runtime-spec, config-linux.md: Device allowlist).
func deviceAccess(l *specs.Linux, d specs.LinuxDevice) string {
	if l.Resources == nil {
		return ""
	}
	any := func(n *int64) bool { return n == nil || *n < 0 }
	var allowed string
	for _, access := range []string{"r", "w"} {
		ok := false
		for _, rule := range l.Resources.Devices {
			about := rule.Type == "" || rule.Type == "a" || rule.Type == d.Type && (any(rule.Major) || *rule.Major == d.Major) && (any(rule.Minor) || *rule.Minor == d.Minor)
			if about && (rule.Access == "" || strings.Contains(rule.Access, access)) {
				ok = rule.Allow
			}
		}
		if ok {
			allowed += access
		}
	}
	return allowed
}

// guestDeviceList translates checked devices, without those that the guest has no driver for.
func guestDeviceList(l *specs.Linux) []agent.Device {
	disks := map[string]string{}
	for _, d := range Disks(l) {
		disks[d.Path] = d.Serial
	}
	var out []agent.Device
	for _, d := range l.Devices {
		if !canMake(d) && (deviceKinds[d.Type] != unix.S_IFBLK || privileged(l)) {
			continue
		}
		node := agent.Device{Path: filepath.Clean(d.Path)}
		node.Disk = disks[node.Path]
		mode := defaultDeviceMode
		if d.FileMode != nil {
			mode = *d.FileMode // podman's has the bits of S_IFMT in it
		}
		node.Mode = deviceKinds[d.Type] | uint32(mode)&0o7777
		if d.Type != "p" {
			node.Major, node.Minor = uint32(d.Major), uint32(d.Minor)
		}
		if d.UID != nil {
			node.UID = *d.UID
		}
		if d.GID != nil {
			node.GID = *d.GID
		}
		out = append(out, node)
	}
	return out
}

// skippedDevices names those of a privileged container's devices that the guest does not have.
func skippedDevices(l *specs.Linux) []string {
	var out []string
	for _, d := range l.Devices {
		if privileged(l) && !canMake(d) {
			out = append(out, d.Path)
		}
	}
	return out
}
