package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// clientName has this test binary be what busybox has not, inside a container: a client of a Unix socket, a holder of locks, and both ends
// of connections. Beside one it is a service manager.
const clientName = "/client"

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case clientName:
	case "/init":
		silentInit()
	default:
		os.Exit(m.Run())
	}
	work := func() error { return client(os.Args[1], os.Args[2]) }
	switch os.Args[1] {
	case "lock":
		work = func() error { return lockAndRun(os.Args[2], os.Args[3:]) }
	case "manager":
		work = func() error { return manager(os.Args[2]) }
	case "try-lock":
		work = func() error { return tryLock(os.Args[2]) }
	case "ask":
		work = func() error { return ask(os.Args[2], os.Args[3], os.Args[4:]) }
	case "answer":
		work = func() error { return answer(os.Args[2], os.Args[3], os.Args[4]) }
	}
	if tool := networkTools[os.Args[1]]; tool != nil {
		work = func() error { return tool(os.Args[2:]) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// lockAndRun holds a file's lock while a command runs.
func lockAndRun(path string, command []string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// tryLock says whether somebody holds a file's lock.
func tryLock(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		fmt.Println("free")
	case unix.EWOULDBLOCK:
		fmt.Println("held")
	default:
		return err
	}
	return nil
}

// client sends standard input to a socket: as a stream, whose answer it shows, or each line as a datagram.
func client(network, path string) error {
	c, err := net.Dial(network, path)
	if err != nil {
		return err
	}
	defer c.Close()
	if network == "unixgram" {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if _, err := c.Write(lines.Bytes()); err != nil {
				return err
			}
		}
		return nil
	}
	go func() {
		_, _ = io.Copy(c, os.Stdin)
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, c)
	return err
}

// manager makes a service manager's socket and shows what it is told, until it is killed.
func manager(path string) error {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		fmt.Println(strings.TrimSuffix(string(b[:n]), "\n"))
	}
}

// mountTmpfs mounts a tmpfs on a new directory of the host.
func mountTmpfs(t *testing.T, dir, data string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestDevicesAndMounts compares with runc what a container sees of devices, mount options, /dev/shm and propagation.
func TestDevicesAndMounts(t *testing.T) {
	r := newRuntime(t)
	volume, shm := filepath.Join(r.dir, "volume"), filepath.Join(r.dir, "shm")
	mountTmpfs(t, filepath.Join(volume, "sub"), "")
	mountTmpfs(t, shm, "size=3m")
	resolvConf := filepath.Join(r.dir, "resolv.conf")
	writeFile(t, resolvConf, "nameserver 192.0.2.1\n")
	script := `stat -c '%n %F %a %u %g %t %T' /dev/null /dev/pipe /dev/net/tun /dev/fuse /dev/tty
echo x > /dev/null && echo null takes; head -c 3 /dev/my/zero | od -An -tx1
while read a b c d point options optional rest; do case $point in
	/) echo "/ ${optional%%:*}";;
	/dev/shm) echo $point $options; df -k $point 2>/dev/null | tail -1 | while read a b c; do echo $b; done;;
	/tmpfs) echo $point $options ${optional%%:*};;
	/ro) echo $point $options;;
esac; done < /proc/self/mountinfo
touch /ro/x /ro/sub/x /half/x 2>&1
touch /dev/shm/x && stat -c %a /dev/shm
cat /seed/file; umask; cat /etc/resolv.conf /run/made/resolv.conf`
	mode, group := os.FileMode(0o20640), uint32(7)
	umask := uint32(0o77)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Process.User.Umask = &umask
		s.Linux.RootfsPropagation = "shared"
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, GID: &group},
			{Path: "/dev/fuse", Type: "u", Major: 10, Minor: 229},
			{Path: "/dev/my/zero", Type: "c", Major: 1, Minor: 5, FileMode: &mode},
			{Path: "/dev/pipe", Type: "p", FileMode: &mode},
		}
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/dev/shm" {
				s.Mounts[i] = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"bind", "nosuid", "noexec", "nodev", "rprivate"}}
			}
		}
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/ro", Type: "bind", Source: volume, Options: []string{"rbind", "rro", "rnosuid", "noatime"}},
			specs.Mount{Destination: "/half", Type: "bind", Source: volume, Options: []string{"rbind", "ro", "nodev"}},
			specs.Mount{Destination: "/tmpfs", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "shared"}},
			specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: resolvConf, Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/seed", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	}, "/bin/sh", "-c", script)
	for name, data := range map[string]string{"seed/file": "seeded\n"} {
		if err := os.MkdirAll(filepath.Join(bundle, "rootfs", filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(bundle, "rootfs", name), data)
	}
	// As in images of systemd's: where it leads to is made.
	if err := os.Symlink("../run/made/resolv.conf", filepath.Join(bundle, "rootfs/etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"df"} {
		if err := os.Symlink("busybox", filepath.Join(bundle, "rootfs/bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	ours := r.run("run", "--bundle", bundle, r.id())
	for _, want := range []string{
		"/dev/pipe fifo 640 0 0", "/dev/net/tun character special file 640 0 7 a c8", "/dev/fuse character special file 666 0 0 a e5",
		"null takes\n 00 00 00\n", "/ shared\n", "3072\n", "/tmpfs rw,nosuid,relatime shared\n", "/ro ro,nosuid,noatime\n",
		"touch: /ro/x: Read-only file system\ntouch: /ro/sub/x: Read-only file system\ntouch: /half/x: Read-only file system\n",
		"1777\nseeded\n0077\nnameserver 192.0.2.1\nnameserver 192.0.2.1\n",
	} {
		if !strings.Contains(ours.out, want) {
			t.Errorf("no %q", want)
		}
	}
	if left, err := os.ReadDir(shm); err != nil || len(left) != 0 {
		t.Errorf("in the host's shm: %v, %v", left, err)
	}
	runc := need.Program(t, "runc", "runc")
	theirs := finish(t, exec.Command(runc, "--root", filepath.Join(r.dir, "runc"), "run", "--bundle", bundle, r.id()), nil)
	theirs.out = strings.Replace(theirs.out, "/ -\n", "/ shared\n", 1) // runc before 1.2 sets it before the pivot, in vain
	if t.Failed() || theirs != ours {
		t.Errorf("runc: status %d\n%s%s\ngovmm-run: status %d\n%s%s", theirs.status, theirs.out, theirs.err, ours.status, ours.out, ours.err)
	}
}

// TestScheduling looks at what runc of Debian's age does not carry out yet.
func TestScheduling(t *testing.T) {
	r := newRuntime(t)
	bundle := r.bundle(func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.govmm.cpus": "2"}
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT, Priority: 2}
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1-5"}
		s.Process.ApparmorProfile = "docker-default"
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	}, "/bin/sh", "-c", "exec sleep 1000")
	id := r.id()
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	r.run("start", id).want(t, 0, "", "")
	look := `read stat < /proc/$1/stat; set -- ${stat#*) }; echo policy ${39} priority ${38}`
	res := r.run("exec", id, "/bin/sh", "-c", look+"\nbusybox ionice -p 1; cat /proc/1/personality; grep Cpus_allowed_list /proc/1/status", "sh", "1")
	if want := "policy 1 priority 3\nrealtime: prio 2\n00000008\nCpus_allowed_list:\t0-1\n"; res.out != want {
		t.Errorf("init: %q, %q, want %q", res.out, res.err, want)
	}
	res = r.run("exec", id, "/bin/sh", "-c", "busybox ionice; busybox uname -m; grep Cpus_allowed_list /proc/self/status")
	if want := "realtime: prio 2\ni686\nCpus_allowed_list:\t1\n"; res.out != want {
		t.Errorf("exec: %q, %q, want %q", res.out, res.err, want)
	}
}

// TestSockets binds sockets of the host into a container, as for docker.sock and NOTIFY_SOCKET.
func TestSockets(t *testing.T) {
	r := newRuntime(t)
	stream, err := net.Listen("unix", filepath.Join(r.dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%d bytes\n", len(b))
			}()
		}
	}()
	path := filepath.Join(r.dir, "notify")
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	bundle := r.bundle(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/run/docker.sock", Type: "bind", Source: filepath.Join(r.dir, "stream"), Options: []string{"rbind", "rprivate"}},
			specs.Mount{Destination: "/run/log", Type: "bind", Source: path, Options: []string{"bind", "ro"}})
	}, "/bin/sh", "-c", `stat -c '%F %a' /run/docker.sock /run/log
yes | head -c 3000000 | /client unix /run/docker.sock
for i in 1 2 3 4 5 6 7 8; do echo $i | /client unix /run/docker.sock & done; wait
echo to the log | /client unixgram /run/log
echo READY=1 | /client unixgram $NOTIFY_SOCKET`)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", clientName), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	want := "socket 755\nsocket 622\n3000000 bytes\n" + strings.Repeat("2 bytes\n", 8)
	t.Setenv("NOTIFY_SOCKET", path)
	if res := r.run("run", "--bundle", bundle, r.id()); res.out != want || res.status != 0 {
		t.Errorf("status %d, %q, %q; want %q", res.status, res.out, res.err, want)
	}
	got := map[string]bool{} // two sockets have no order among them
	for !got["to the log"] || !got["READY=1\n"] {
		got[nextDatagram(t, datagrams)] = true
	}
}

// TestBoundNotifySocket has a container's NOTIFY_SOCKET lie in a bound directory, as that of conmon: what it is told comes whole. So it
// does where the engine binds a socket to the very place that is ours when a manager calls.
func TestBoundNotifySocket(t *testing.T) {
	r := newRuntime(t)
	var sockets []*net.UnixConn
	dir := filepath.Join(r.dir, "bound")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "notify.sock"), filepath.Join(r.dir, "other")} {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sockets = append(sockets, c)
	}
	bundle := r.bundle(func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "NOTIFY_SOCKET=/run/bound/notify.sock")
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/run/bound", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate"}},
			specs.Mount{Destination: "/run/notify/notify.sock", Type: "bind", Source: filepath.Join(r.dir, "other"), Options: []string{"bind"}})
	}, "/bin/sh", "-c", `echo STATUS=first | /client unixgram $NOTIFY_SOCKET; echo STATUS=second | /client unixgram /run/notify/notify.sock`)
	copyClient(t, filepath.Join(bundle, "rootfs"))
	r.run("run", "--bundle", bundle, r.id()).want(t, 0, "", "")
	for i, want := range []string{"STATUS=first", "STATUS=second"} {
		if got := nextDatagram(t, sockets[i]); got != want {
			t.Errorf("socket %d got %q, want %q", i, got, want)
		}
	}
}

// nextDatagram reads one, and closes what comes with it.
func nextDatagram(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b, oob := make([]byte, 100), make([]byte, 100)
	_ = c.SetReadDeadline(time.Now().Add(stepTime))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatalf("no datagram: %v", err)
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
		fds, _ := unix.ParseUnixRights(&messages[0])
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	return string(b[:n])
}

// TestReady has a service manager start a container and wait until that says it is ready: so long start does not return.
func TestReady(t *testing.T) {
	r := newRuntime(t)
	path := filepath.Join(r.dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	bundle := r.sh(`until [ -e /go ]; do sleep 0.1; done; echo READY=1 | /client unixgram $NOTIFY_SOCKET; exec sleep 1000`)
	copyClient(t, filepath.Join(bundle, "rootfs"))
	t.Setenv("NOTIFY_SOCKET", path)
	id := r.id()
	r.run("create", "--bundle", bundle, id).want(t, 0, "", "")
	started := make(chan result, 1)
	go func() { started <- r.run("start", id) }()
	r.waitStatus(id, "running")
	r.run("exec", id, "/bin/true").want(t, 0, "", "") // others need not wait
	select {
	case res := <-started:
		t.Fatalf("start returned before the container was ready: %+v", res)
	default:
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var state specs.State
	if err := json.Unmarshal([]byte(r.run("state", id).out), &state); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1\n", fmt.Sprintf("MAINPID=%d\n", state.Pid), "BARRIER=1"} {
		if got := nextDatagram(t, manager); got != want {
			t.Errorf("the manager got %q, want %q", got, want)
		}
	}
	(<-started).want(t, 0, "", "")
	r.run("delete", "--force", id).want(t, 0, "", "")
}
