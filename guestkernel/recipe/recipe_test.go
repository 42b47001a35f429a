package recipe

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestOurFragments parses what is built: every line must be an option, and no
// option may appear twice. (That Kconfig knows each and takes it is checked by
// every build.)
func TestOurFragments(t *testing.T) {
	for _, which := range []func() (Recipe, error){Container, Bare} {
		r, err := which()
		if err != nil {
			t.Fatal(err)
		}
		opts, err := mergeFragments(r.fragments)
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if len(opts) < 50 {
			t.Errorf("%s: only %d options", r.name, len(opts))
		}
	}
}

// TestContainerOptions pins what containers cannot do without, by name, so
// that a tidy-up of the fragments does not lose one.
func TestContainerOptions(t *testing.T) {
	r, err := Container()
	if err != nil {
		t.Fatal(err)
	}
	opts, err := mergeFragments(r.fragments)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range opts {
		got[o.name] = o.value
	}
	for _, name := range strings.Fields(`
		NAMESPACES NET_NS PID_NS IPC_NS UTS_NS USER_NS TIME_NS CGROUPS CGROUP_CPUACCT CGROUP_DEVICE
		CGROUP_FREEZER CGROUP_SCHED CPUSETS MEMCG KEYS VETH BRIDGE BRIDGE_NETFILTER IP_NF_FILTER
		IP_NF_MANGLE IP_NF_TARGET_MASQUERADE IP6_NF_FILTER IP6_NF_MANGLE IP6_NF_TARGET_MASQUERADE
		NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_IPVS
		NETFILTER_XT_MARK IP_NF_RAW IP_NF_NAT NF_NAT IP6_NF_RAW IP6_NF_NAT POSIX_MQUEUE CGROUP_BPF
		USER_NS SECCOMP SECCOMP_FILTER CGROUP_PIDS BLK_CGROUP BLK_DEV_THROTTLING CGROUP_PERF
		CGROUP_HUGETLB CGROUP_NET_PRIO CFS_BANDWIDTH FAIR_GROUP_SCHED IP_NF_TARGET_REDIRECT IP_VS
		IP_VS_NFCT IP_VS_PROTO_TCP IP_VS_PROTO_UDP IP_VS_RR EXT4_FS EXT4_FS_POSIX_ACL
		EXT4_FS_SECURITY VXLAN BRIDGE_VLAN_FILTERING IPVLAN MACVLAN DUMMY NF_CONNTRACK_FTP
		NF_CONNTRACK_TFTP OVERLAY_FS EROFS_FS FUSE_FS VIRTIO_FS TMPFS_XATTR TMPFS_POSIX_ACL
		VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES VIRTIO_BLK VIRTIO_NET VIRTIO_CONSOLE
		VIRTIO_BALLOON VIRTIO_MEM VIRTIO_VSOCKETS HW_RANDOM_VIRTIO X86_MPPARSE PVH KVM_GUEST
		CPU_MITIGATIONS FANOTIFY INOTIFY_USER IO_URING AIO USERFAULTFD CHECKPOINT_RESTORE
		BINFMT_MISC NF_TABLES NFT_MASQ NFT_NAT NFT_CT NFT_COMPAT TUN PACKET UNIX_DIAG PARAVIRT_TIME_ACCOUNTING`) {
		if got[name] != "y" {
			t.Errorf("CONFIG_%s is %q", name, got[name])
		}
	}
	for _, name := range strings.Fields("MODULES PCI ACPI LEGACY_PTYS RELOCATABLE CRYPTO_JITTERENTROPY") {
		if got[name] != "n" {
			t.Errorf("CONFIG_%s is %q, want it off by name", name, got[name])
		}
	}
}

func TestParseFragment(t *testing.T) {
	got, err := parseFragment("f", []byte("# a comment\n#\n\nCONFIG_A=y\nCONFIG_B2_C=n\nCONFIG_D=-1\nCONFIG_E=0x1F\nCONFIG_F=\"a b\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []option{{"A", "y", 4}, {"B2_C", "n", 5}, {"D", "-1", 6}, {"E", "0x1F", 7}, {"F", `"a b"`, 8}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(option{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, line := range []string{"CONFIG_A", "CONFIG_A=m", "CONFIG_A=y # why", " CONFIG_A=y", "CONFIG_a=y", "A=y", "#CONFIG_A=y", "# CONFIG_A is not set", `CONFIG_A="x`} {
		if opts, err := parseFragment("f", []byte("CONFIG_Z=y\n"+line+"\n")); err == nil || !strings.Contains(err.Error(), "f:2") {
			t.Errorf("%q: %v, %v; want an error for f:2", line, opts, err)
		}
	}
	_, err = mergeFragments(map[string][]byte{"b": []byte("CONFIG_A=y\n"), "a": []byte("\nCONFIG_A=n\n")})
	if err == nil || !strings.Contains(err.Error(), "b:1") || !strings.Contains(err.Error(), "a:2") {
		t.Errorf("option in two fragments: %v; want both places named", err)
	}
}

func TestUnmet(t *testing.T) {
	dot := []byte("CONFIG_ON=y\n# CONFIG_OFF is not set\nCONFIG_NUM=64\nCONFIG_STR=\"x\"\n")
	asked := []option{{name: "ON", value: "y"}, {name: "OFF", value: "n"}, {name: "NUM", value: "64"}, {name: "STR", value: `"x"`}, {name: "GONE", value: "n"}}
	if diff := unmet(asked, dot); len(diff) > 0 {
		t.Errorf("%q", diff)
	}
	asked = []option{{name: "ON", value: "n"}, {name: "OFF", value: "y"}, {name: "NUM", value: "65"}, {name: "STR", value: `"y"`}, {name: "GONE", value: "y"}}
	if diff := unmet(asked, dot); len(diff) != len(asked) {
		t.Errorf("%d of %d differences found: %q", len(diff), len(asked), diff)
	}
	if got := unknown(asked, map[string]bool{"ON": true, "OFF": true, "NUM": true, "STR": true}); !cmp.Equal(got, []string{"CONFIG_GONE"}) {
		t.Errorf("unknown: %q", got)
	}
}

func TestKconfigNames(t *testing.T) {
	dir := t.TempDir()
	text := "menu \"x\"\n\nconfig FOO\n\tbool \"foo\"\n\n  menuconfig BAR_2\n\thelp\n\t  config is a word here\n"
	for name, body := range map[string]string{"Kconfig": text, "sub/Kconfig.debug": "config SUB\n", "sub/Makefile": "config NOT\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := kconfigNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]bool{"FOO": true, "BAR_2": true, "SUB": true}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestKey(t *testing.T) {
	base := Recipe{name: "n", fragments: map[string][]byte{"a": []byte("1"), "b": []byte("2")}}
	tools := toolchain{"gcc 1"}
	key := base.key(tools)
	if key != base.key(tools) {
		t.Error("the same inputs give two keys")
	}
	for what, other := range map[string]string{
		"name":      Recipe{name: "m", fragments: base.fragments}.key(tools),
		"fragment":  Recipe{name: "n", fragments: map[string][]byte{"a": []byte("1"), "b": []byte("3")}}.key(tools),
		"boundary":  Recipe{name: "n", fragments: map[string][]byte{"a": []byte("1b"), "": []byte("2")}}.key(tools),
		"init":      Recipe{name: "n", fragments: base.fragments, initC: []byte("x")}.key(tools),
		"toolchain": base.key(toolchain{"gcc 2"}),
	} {
		if other == key {
			t.Errorf("another %s gives the same key", what)
		}
	}
}

func TestProgress(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	p := newProgress(&out, "k", 10, now)
	p.now = func() time.Time { return now }
	for i := range 12 {
		now = now.Add(logInterval / 3)
		fmt.Fprintf(p, "  CC      file%d.o\nmake[1]: not a file\n", i)
	}
	io.WriteString(p, "  LD  half a line")
	p.finish()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) > 6 {
		t.Errorf("%d lines in a log:\n%s", len(lines), out.String())
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, "12 files") || !strings.Contains(last, "1m0s") {
		t.Errorf("last line: %q", last)
	}
	if strings.Contains(out.String(), "100%") || strings.Contains(out.String(), "\r") {
		t.Errorf("log: %q", out.String())
	}

	out.Reset()
	p = newProgress(&out, "k", 10, now)
	p.now, p.terminal = func() time.Time { return now }, true
	io.WriteString(p, "  CC a.o\n")
	if got := out.String(); strings.Contains(got, "\n") || !strings.HasPrefix(got, "\r") {
		t.Errorf("terminal: %q", got)
	}
}

func TestSameBytes(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	put := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(a, "vmlinux", "x")
	if err := sameBytes(a, b); err != nil {
		t.Errorf("nothing cached: %v", err)
	}
	put(b, "vmlinux", "x")
	if err := sameBytes(a, b); err != nil {
		t.Errorf("same: %v", err)
	}
	put(b, "vmlinux", "y")
	if err := sameBytes(a, b); err == nil {
		t.Error("different bytes pass as reproducible")
	}
}

// TestMoveAcross stands for a build directory on another file system.
func TestMoveAcross(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(filepath.Join(from, "vmlinux"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the first's
		if err := moveAcross(from, to); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(to, "vmlinux")); string(b) != "x" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(to)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
