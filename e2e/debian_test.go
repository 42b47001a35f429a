package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

var debianOnce sync.Once

// debianRoot is a Debian root file system, unpacked once for all tests.
func debianRoot(t *testing.T) string {
	t.Helper()
	tar := os.Getenv("GOVMM_ROOTFS")
	if tar == "" {
		need.Lacking(t, need.VM, "GOVMM_ROOTFS, the tar that scripts/rootfs makes")
	}
	dir := "/scratch/debian-root"
	debianOnce.Do(func() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("tar", "-C", dir, "--xattrs", "--numeric-owner", "-xpf", tar)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v: %s", tar, err, out)
		}
	})
	return dir
}

var rootCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func debianSpec(root, volume string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Root.Path = root
		s.Process.Env = []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
			"DEBIAN_FRONTEND=noninteractive",
		}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: rootCaps, Effective: rootCaps, Permitted: rootCaps}
		s.Process.Rlimits = nil
		s.Annotations = map[string]string{"io.govmm.memory": "1G"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/srv", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}})
	}
}

// workloads are what people do in a Debian container; each is a script whose last line of output is "good".
var workloads = []struct{ name, script string }{
	{"dpkg", `dpkg -l | grep -q '^ii  dpkg '
dpkg -V dpkg bash coreutils
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/hello
printf 'Package: govmm-hello\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' > /tmp/p/DEBIAN/control
echo data > /tmp/p/usr/share/hello/data
dpkg-deb --build --root-owner-group /tmp/p /tmp/hello.deb > /dev/null
dpkg -i /tmp/hello.deb > /dev/null
test "$(cat /usr/share/hello/data)" = data
dpkg -r govmm-hello > /dev/null
test ! -e /usr/share/hello/data`},
	{"tar", `mkdir /tmp/t && tar -C /usr/share/perl5 -cf /tmp/a.tar . && tar -C /tmp/t -xpf /tmp/a.tar
diff -r /usr/share/perl5 /tmp/t
tar -C /tmp/t --compare -f /tmp/a.tar`},
	{"sort", `seq 1 1500000 | awk '{ print ($1 * 7919) % 1500007 }' > /tmp/n
test $(stat -c %s /tmp/n) -gt 10000000
sort -n -S 4M -T /tmp /tmp/n > /tmp/s
sort -n -c /tmp/s
test $(wc -l < /tmp/s) = 1500000`},
	{"gcc", `mkdir /tmp/c && cd /tmp/c
printf 'int add(int, int);\nint twice(int);\n' > lib.h
printf '#include "lib.h"\nint add(int a, int b) { return a + b; }\n' > add.c
printf '#include "lib.h"\nint twice(int a) { return add(a, a); }\n' > twice.c
printf '#include <stdio.h>\n#include "lib.h"\nint main(void) { printf("%%d\\n", twice(add(20, 1))); return 0; }\n' > main.c
printf 'prog: main.o add.o twice.o\n\t$(CC) -o $@ $^\n%%.o: %%.c lib.h\n\t$(CC) -Wall -Werror -c $<\n' > Makefile
make -s -j2
test "$(./prog)" = 42
make -q prog`},
	{"git", `mkdir /tmp/g && cd /tmp/g && git init -q && git config user.email x@example.org && git config user.name x
for i in 1 2 3; do echo $i > f$i; git add .; git commit -q -m "commit $i"; done
git clone -q /tmp/g /tmp/g2 && cd /tmp/g2 && git fsck --strict 2>&1
test $(git log --oneline | wc -l) = 3
git gc -q && git status --porcelain`},
	{"sqlite", `cd /tmp && sqlite3 db 'pragma journal_mode=wal; create table t(a integer primary key, b text);' > /dev/null
sqlite3 db "begin; with recursive c(x) as (select 1 union all select x+1 from c where x < 5000) insert into t select x, hex(x) from c; commit;"
sqlite3 db "begin; delete from t; rollback;"
test "$(sqlite3 db 'select count(*), sum(a) from t')" = "5000|12502500"
test "$(sqlite3 db 'pragma integrity_check')" = ok`},
	{"redis", `redis-server --port 0 --unixsocket /tmp/r.sock --daemonize yes --dir /tmp --save '' > /dev/null
for i in $(seq 100); do redis-cli -s /tmp/r.sock ping > /dev/null 2>&1 && break; sleep 0.2; done
seq 1 500 | sed 's/.*/SET key:& value-&/' | redis-cli -s /tmp/r.sock > /dev/null
test "$(redis-cli -s /tmp/r.sock dbsize)" = 500
test "$(redis-cli -s /tmp/r.sock get key:321)" = value-321
redis-cli -s /tmp/r.sock save > /dev/null && test -s /tmp/dump.rdb
redis-cli -s /tmp/r.sock shutdown nosave`},
	{"python", `python3 -c 'import hashlib,re; print(hashlib.sha256(re.sub("1", "one", str(list(range(1000)))).encode()).hexdigest())' > /tmp/h
grep -qx '[0-9a-f]\{64\}' /tmp/h`},
}

// TestDebian does real work in one container.
func TestDebian(t *testing.T) {
	r := newRuntime(t)
	root, volume := debianRoot(t), filepath.Join(r.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	bundle := r.bundle(debianSpec(root, volume), "sleep", "100000")
	id := r.id()
	r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			res := r.run("exec", id, "bash", "-ec", w.script+"\necho good")
			if res.status != 0 || !strings.HasSuffix(res.out, "good\n") {
				t.Errorf("status %d, stdout %q, stderr %q", res.status, tail(res.out), tail(res.err))
			}
		})
	}
	t.Run("written inside", func(t *testing.T) { writtenInside(t, r, id, volume) })
	t.Run("written outside", func(t *testing.T) { writtenOutside(t, r, id, volume) })
	r.run("kill", id, "KILL").want(t, 0, "", "")
	r.waitStatus(id, "stopped")
	r.run("delete", id).want(t, 0, "", "")
}

const stamp = 1_000_000_000

// writtenInside looks on the host at what a guest wrote to a volume.
func writtenInside(t *testing.T, r *rt, id, volume string) {
	r.run("exec", id, "bash", "-ec", `cd /srv; echo inside > in; chown 1234:5678 in; chmod 4751 in
setfattr -n user.colour -v blue in; touch -d @1000000000 in; ln -s in sym; ln in hard; mkfifo fifo`).want(t, 0, "", "")
	path := filepath.Join(volume, "in")
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 1234 || st.Gid != 5678 || st.Mode != syscall.S_IFREG|0o4751 || st.Mtim.Sec != stamp || st.Nlink != 2 {
		t.Errorf("owner %d:%d, mode %o, time %d, links %d", st.Uid, st.Gid, st.Mode, st.Mtim.Sec, st.Nlink)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(path, "user.colour", value); err != nil || string(value[:n]) != "blue" {
		t.Errorf("user.colour is %q, %v", value[:max(n, 0)], err)
	}
	if target, err := os.Readlink(filepath.Join(volume, "sym")); err != nil || target != "in" {
		t.Errorf("symbolic link to %q, %v", target, err)
	}
	if fi, err := os.Lstat(filepath.Join(volume, "fifo")); err != nil || fi.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("fifo: %v, %v", fi, err)
	}
}

// writtenOutside looks in the guest at what the host wrote to a volume.
func writtenOutside(t *testing.T, r *rt, id, volume string) {
	path := filepath.Join(volume, "out")
	writeFile(t, path, "outside\n")
	for _, err := range []error{
		os.Chown(path, 4321, 8765), os.Chmod(path, 0o640),
		unix.Setxattr(path, "user.shape", []byte("round"), 0),
		os.Chtimes(path, time.Unix(stamp, 0), time.Unix(stamp, 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.run("exec", id, "bash", "-ec", `cd /srv; cat out; stat -c '%u:%g %a %Y' out; getfattr --only-values -n user.shape out`).
		want(t, 0, "outside\n4321:8765 640 1000000000\nround", "")
	// What the host changes later is seen too, within the time that the contract allows.
	writeFile(t, path, "changed outside\n")
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(r.run("exec", id, "cat", "/srv/out").out, "changed outside") {
		if time.Now().After(deadline) {
			t.Fatal("the guest does not see the host's change")
		}
	}
}
