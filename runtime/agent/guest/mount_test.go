package guest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// export puts a file tree at /c/<n> of the export; a name that ends in / is a directory.
func (f *fixture) export(n string, files map[string]string) {
	for name, data := range files {
		path := filepath.Join(f.dir, "export/c", n, name)
		if strings.HasSuffix(name, "/") {
			must(f.t, os.MkdirAll(path, 0o755))
			continue
		}
		must(f.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(f.t, os.WriteFile(path, []byte(data), 0o644))
	}
}

func TestMounts(t *testing.T) {
	f := start(t)
	f.export("1", map[string]string{"inside": "volume\n", "sub/file": "deep\n", "mnt/": ""})
	must(t, os.WriteFile(filepath.Join(f.dir, "export/c/2"), []byte("single\n"), 0o644))
	must(t, os.Symlink("/etc", filepath.Join(f.root, "link")))
	must(t, os.Symlink("/../../../../../../etc/made", filepath.Join(f.root, "up")))
	f.export("0", map[string]string{"seed/a": "A\n", "seed/d/b": "B\n"})
	must(t, os.Chown(filepath.Join(f.root, "seed/a"), 5, 6))
	must(t, os.Chmod(filepath.Join(f.root, "seed"), 0o711))

	m := f.spec("sh", "-c", `
		cat /vol/inside /vol/sub/file /run/one /etc/two /etc/made/file /seed/a /seed/d/b
		stat -c '%u %g %a' /seed/a; stat -c %a /seed
		touch /vol/x 2>&1; touch /frozen/x 2>&1; touch /run/x && echo run is writable; touch /rw/x && echo rw is writable
		grep -E ' /(vol|run|frozen|rw|nosym) ' /proc/self/mountinfo | while read a b c d e f g; do echo $e $f; done`)
	m.Mounts = append(m.Mounts,
		agent.Mount{Bind: true, Source: "/c/1", Target: "/vol", Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME},
		agent.Mount{Source: "tmpfs", Target: "/run", Type: "tmpfs", Flags: unix.MS_NODEV, Data: "mode=755"},
		agent.Mount{Bind: true, Source: "/c/2", Target: "/run/one"},  // below a file system that only the guest has
		agent.Mount{Bind: true, Source: "/c/2", Target: "/link/two"}, // through a link of the image
		agent.Mount{Bind: true, Source: "/c/1/sub", Target: "/up"},   // a link that points out stays in
		agent.Mount{Source: "tmpfs", Target: "/seed", Type: "tmpfs", CopyUp: true},
		agent.Mount{Source: "tmpfs", Target: "/frozen", Type: "tmpfs", Flags: unix.MS_RDONLY},
		agent.Mount{Bind: true, Source: "/c/2", Target: "/frozen/made/one"}, // a read-only tmpfs takes mount points first
		agent.Mount{Bind: true, Source: "/c/1", Target: "/rw", Flags: unix.MS_STRICTATIME | unix.MS_NODIRATIME},
	)
	must(t, os.MkdirAll(filepath.Join(f.root, "etc/made"), 0o755))
	got := f.run(m, nil)
	want := "volume\ndeep\nsingle\nsingle\ndeep\nA\nB\n5 6 644\n711\n" +
		"touch: /vol/x: Read-only file system\ntouch: /frozen/x: Read-only file system\nrun is writable\nrw is writable\n" +
		"/vol ro,nosuid,nodev,noexec,noatime\n/run rw,nodev,relatime\n/frozen ro,relatime\n/rw rw,nodiratime\n"
	if got.stdout != want || got.stderr != "" {
		t.Errorf("got  %q\nwant %q\nstderr %q", got.stdout, want, got.stderr)
	}
}

// TestHiddenMount mounts over a file system that PID 1 knows a short way to: what comes after goes where a walk leads.
func TestHiddenMount(t *testing.T) {
	f := start(t)
	f.export("1", map[string]string{"inside": "volume\n", "secret": "seen\n", "mnt/": "", "made/": ""})
	must(t, os.Mkdir(filepath.Join(f.root, "own"), 0o755))
	must(t, os.Symlink("own", filepath.Join(f.root, "alias")))
	m := f.spec("sh", "-c", `cat /own/inside /own/secret; touch /own/made/x 2>&1; stat -f -c %T /own/mnt /own/twice; stat -c %F /own/null`)
	m.Mounts = append(m.Mounts,
		agent.Mount{Source: "tmpfs", Target: "/own", Type: "tmpfs"},
		agent.Mount{Source: "tmpfs", Target: "/own/mnt", Type: "tmpfs"}, // in the one that is hidden
		agent.Mount{Bind: true, Source: "/c/1", Target: "/alias"},       // hides it, under another name
		agent.Mount{Source: "tmpfs", Target: "/own/mnt", Type: "tmpfs"},
		agent.Mount{Source: "tmpfs", Target: "/own/twice", Type: "tmpfs"},
	)
	m.Devices = append(m.Devices, agent.Device{Path: "/own/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3})
	m.MaskedPaths, m.ReadonlyPaths = []string{"/own/secret"}, []string{"/own/made"}
	got := f.run(m, nil)
	if want := "volume\ntouch: /own/made/x: Read-only file system\ntmpfs\ntmpfs\ncharacter special file\n"; got.stdout != want || got.stderr != "" {
		t.Errorf("got  %q\nwant %q\nstderr %q", got.stdout, want, got.stderr)
	}
}

func TestMountErrors(t *testing.T) {
	f := start(t)
	must(t, os.WriteFile(filepath.Join(f.root, "plain"), nil, 0o644))
	must(t, os.Symlink("/etc", filepath.Join(f.root, "diverted")))
	for _, tt := range []struct {
		m    agent.Mount
		text string
	}{
		{agent.Mount{Bind: true, Source: "/c/9", Target: "/x"}, "no such file or directory"},
		{agent.Mount{Bind: true, Source: "/c/../../scratch", Target: "/x"}, "no such file or directory"},
		{agent.Mount{Bind: true, Source: "/c/0", Target: "/"}, "cannot cover the root"},
		{agent.Mount{Bind: true, Source: "/c/0", Target: "/plain/below"}, "not a directory"},
		{agent.Mount{Bind: true, Source: "/c/0", Target: "/plain"}, "not a directory"},
		{agent.Mount{Source: "x", Target: "/diverted", Type: "proc"}, `filesystem "proc" must be mounted on ordinary directory`},
		{agent.Mount{Source: "x", Target: "/diverted", Type: "sysfs"}, `filesystem "sysfs" must be mounted on ordinary directory`},
		{agent.Mount{Source: "x", Target: "/x", Type: "ext4"}, `unsupported file system type "ext4"`},
		{agent.Mount{Source: "x", Target: "/x", Type: "tmpfs", Data: "nonsense=1"}, "invalid argument"},
		{agent.Mount{Source: "x", Target: "/x", Type: "tmpfs", Flags: unix.MS_REMOUNT}, "remount is not supported"},
	} {
		m := f.spec("true")
		m.Mounts = append(m.Mounts, tt.m)
		if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), tt.text) || !strings.HasPrefix(err.Error(), "error mounting ") {
			t.Errorf("%+v: got %v, want %q", tt.m, err, tt.text)
		}
	}
	m := f.spec("true")
	m.Rootfs.Source = "/nope"
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "rootfs: open nope: no such file or directory") {
		t.Errorf("got %v", err)
	}
	if got := f.run(f.spec("true"), nil); got.Status != 0 {
		t.Errorf("after the failures: %+v", got)
	}
}

func TestRootfs(t *testing.T) {
	f := start(t)
	must(t, os.WriteFile(filepath.Join(f.root, "etc/secret"), []byte("secret\n"), 0o644))
	f.export("0", map[string]string{"hidden/file": "secret\n", "hidden2/file": "secret\n", "fixed/file": "x"})
	m := f.spec("sh", "-c", `
		touch /x 2>&1; touch /tmp/x 2>&1; touch /fixed/x 2>&1; cat /etc/secret; ls /hidden /hidden2; touch /hidden/x 2>&1
		grep -c . /proc/sys/kernel/hostname; (echo no > /proc/sys/kernel/domainname) 2>&1; cat /proc/sys/kernel/domainname; hostname
		cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax
		ls /; ls -l /dev | grep -c '1, *[35789]'; for i in fd stdout ptmx; do readlink /dev/$i; done; ls -ln /dev/mine /dev/pipe
		echo x > /dev/full; readlink /proc/1/cwd; cat /proc/1/mountinfo | while read a b c d e f; do echo $e; done | head -1`)
	m.Rootfs.Readonly = true
	m.Domainname = "example"
	m.Sysctls = []agent.Sysctl{{Name: "net.ipv4.ip_forward", Value: "1"}, {Name: "kernel/msgmax", Value: "4096"}}
	m.MaskedPaths = []string{"/etc/secret", "/hidden", "/hidden2", "/nothing/here", "/etc/secret/below"}
	m.ReadonlyPaths = []string{"/proc/sys", "/fixed", "/nothing"}
	m.Devices = []agent.Device{
		{Path: "/dev/mine", Mode: unix.S_IFCHR | 0o640, Major: 1, Minor: 3, UID: 3, GID: 4},
		{Path: "/dev/pipe", Mode: unix.S_IFIFO | 0o600},
	}
	got := f.run(m, nil)
	want := strings.Join([]string{
		"touch: /x: Read-only file system", "touch: /tmp/x: Read-only file system", "touch: /fixed/x: Read-only file system",
		"/hidden:", "", "/hidden2:", "touch: /hidden/x: Read-only file system",
		"1", "sh: can't create /proc/sys/kernel/domainname: Read-only file system", "example", "box", "1", "4096",
		"bin", "dev", "etc", "fixed", "hidden", "hidden2", "home", "proc", "sys", "tmp",
		"6", "/proc/self/fd", "/proc/self/fd/1", "pts/ptmx",
		"crw-r-----", "prw-------", "/", "/", "",
	}, "\n")
	if plain := dropFields(got.stdout); plain != want || !strings.Contains(got.stderr, "No space left on device") {
		t.Errorf("got  %q\nwant %q\nstderr %q", plain, want, got.stderr)
	}
}

// dropFields keeps only the mode of the lines of ls -l.
func dropFields(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "crw") || strings.HasPrefix(l, "prw") {
			lines[i], _, _ = strings.Cut(l, " ")
		}
	}
	return strings.Join(lines, "\n")
}

// A hostile image: links where the runtime will mount and write.
func TestHostileImage(t *testing.T) {
	f := start(t)
	victim := filepath.Join(f.dir, "victim")
	must(t, os.Mkdir(victim, 0o755))
	must(t, os.Remove(filepath.Join(f.root, "dev")))
	must(t, os.Remove(filepath.Join(f.root, "proc")))
	must(t, os.Symlink(victim, filepath.Join(f.root, "dev")))
	must(t, os.Symlink("../../../../.."+victim, filepath.Join(f.root, "proc")))
	m := f.spec("true")
	m.Mounts = append(m.Mounts, agent.Mount{Source: "tmpfs", Target: "/tmp/new/dir", Type: "tmpfs"})
	_, _ = f.create(m, stdio{}) // whether it works does not matter
	left, err := os.ReadDir(victim)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("outside of the image now: %v", left)
	}
}

// TestMountPointsBehindLinks mounts where links of the image lead nowhere yet: the way is made, in the image.
func TestMountPointsBehindLinks(t *testing.T) {
	f := start(t)
	f.export("1", map[string]string{"file": "volume\n"})
	for name, to := range map[string]string{
		"aside": "/home/etc/", "home/etc/link": "../run/stub/file", "loose": "next", "next": "/far//dir", "out": "../../../up",
	} {
		must(t, os.MkdirAll(filepath.Join(f.root, filepath.Dir(name)), 0o755))
		must(t, os.Symlink(to, filepath.Join(f.root, name)))
	}
	m := f.spec("sh", "-c", "cat /home/run/stub/file /far/dir/file; cat /up/below/file /aside/link /loose/file")
	m.Mounts = append(m.Mounts,
		agent.Mount{Bind: true, Source: "/c/1/file", Target: "/aside/link"},
		agent.Mount{Bind: true, Source: "/c/1", Target: "/loose"},
		agent.Mount{Bind: true, Source: "/c/1", Target: "/out/below"})
	if got := f.run(m, nil); got.stdout != strings.Repeat("volume\n", 5) || got.stderr != "" {
		t.Errorf("got %+v", got)
	}
	must(t, os.Symlink("/loop/x", filepath.Join(f.root, "loop")))
	m = f.spec("true")
	m.Mounts = append(m.Mounts, agent.Mount{Source: "tmpfs", Target: "/loop", Type: "tmpfs"})
	if _, err := f.create(m, stdio{}); err == nil || !strings.Contains(err.Error(), "too many levels of symbolic links") {
		t.Errorf("a link to below itself: %v", err)
	}
}

func TestCwdIsMade(t *testing.T) {
	f := start(t)
	m := f.spec("pwd")
	m.Process.Cwd = "/srv/work"
	if got := f.run(m, nil); got.stdout != "/srv/work\n" {
		t.Errorf("got %+v", got)
	}
}
