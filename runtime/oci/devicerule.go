package oci

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// deviceAccesses are the kinds of access to a device by their letters (runtime-spec, config-linux.md: Allowed Device list).
var deviceAccesses = map[rune]uint8{'r': agent.DeviceRead, 'w': agent.DeviceWrite, 'm': agent.DeviceMknod}

// checkDeviceRules refuses rules that would be about other devices than they say. Of the access, letters that mean nothing are passed
// over, as under runc.
func checkDeviceRules(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for i, d := range r.Devices {
		if kind, known := deviceKinds[d.Type]; d.Type != "" && d.Type != "a" && (!known || kind == unix.S_IFIFO) {
			return fmt.Errorf("linux.resources.devices[%d]: type %q is not one of a, b and c", i, d.Type)
		}
	}
	return nil
}

// guestDeviceRules translates linux.resources.devices. A rule about all devices leaves nothing of those before it, and one that
// denies is as good as none. A disk has a number of the guest's, so that what the rules leave of it is a rule of its own.
func guestDeviceRules(l *specs.Linux) []agent.DeviceRule {
	var out []agent.DeviceRule
	if l.Resources != nil {
		for _, d := range l.Resources.Devices {
			rule := guestDeviceRule(d)
			if rule.Kind == 0 && rule.Access == agent.DeviceAll {
				if out = nil; !rule.Allow {
					continue
				}
			}
			out = append(out, rule)
		}
	}
	for _, d := range Disks(l) {
		access := uint8(agent.DeviceMknod | agent.DeviceRead)
		if !d.ReadOnly {
			access |= agent.DeviceWrite
		}
		out = append(out, agent.DeviceRule{Allow: true, Kind: deviceKinds["b"], Access: access, Disk: d.Serial})
	}
	return out
}

// guestDeviceRule translates one rule. One about all types is about all devices, whatever numbers it has, as under runc.
func guestDeviceRule(d specs.LinuxDeviceCgroup) agent.DeviceRule {
	r := agent.DeviceRule{Allow: d.Allow, Kind: deviceKinds[d.Type], Major: -1, Minor: -1}
	if r.Kind != 0 && d.Major != nil {
		r.Major = max(*d.Major, -1)
	}
	if r.Kind != 0 && d.Minor != nil {
		r.Minor = max(*d.Minor, -1)
	}
	for _, letter := range d.Access {
		r.Access |= deviceAccesses[letter]
	}
	if d.Access == "" {
		r.Access = agent.DeviceAll
	}
	return r
}
