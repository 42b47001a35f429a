package main

import (
	"reflect"
	"testing"
)

func TestParseCheckConfig(t *testing.T) {
	const text = "info: reading kernel config from /proc/config.gz ...\n\n\x1b[37mGenerally Necessary:\x1b[m\n" +
		"- \x1b[37mcgroup hierarchy\x1b[m: \x1b[32mcgroupv2\x1b[m\n- CONFIG_NAMESPACES: enabled\n- CONFIG_VETH: enabled (as module)\r\n" +
		"  - \"overlay\":\n      - CONFIG_VXLAN: \x1b[1;31mmissing\x1b[m\n- Network Drivers:\n" +
		"    - /dev/zfs: missing\n- /proc/sys/kernel/keys/root_maxkeys: 1000000\n- CONFIG_LEGACY_VSYSCALL_NONE: enabled\n"
	want := []Assertion{
		{Name: "cgroup hierarchy", Outcome: passed}, {Name: "CONFIG_NAMESPACES", Outcome: passed}, {Name: "CONFIG_VETH", Outcome: passed},
		{Name: "CONFIG_VXLAN", Outcome: failed, Detail: "missing"}, {Name: "/dev/zfs", Outcome: failed, Detail: "missing"},
		{Name: "/proc/sys/kernel/keys/root_maxkeys", Outcome: passed}, {Name: "CONFIG_LEGACY_VSYSCALL_NONE", Outcome: failed, Detail: "enabled"},
	}
	if got := parseCheckConfig(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
