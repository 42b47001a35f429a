package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// startDaemon starts a daemon that logs to dir, waits until ready succeeds, and ends it with the test.
func startDaemon(t *testing.T, dir string, env []string, ready func() bool, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		if b, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%s", name, b[max(0, len(b)-8<<10):])
		}
	})
	for end := time.Now().Add(2 * time.Minute); !ready(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is not ready", name)
		}
	}
}

const containerdConf = `version = 2
root = "%[1]s/data"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "%[1]s/c.sock"
`

// ctrPrelude gives scripts the namespace's own way to run the image.
const ctrPrelude = `
run() { ctr run --runc-binary "$BIN/$RUNTIME" "$@"; }
img=docker.io/library/bb:latest
cgroup="--mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev"
stopped() { ctr t ls | grep "^$1 .*STOPPED"; }
`

// containerdSteps is what people do with ctr.
var containerdSteps = []step{
	{name: "import", script: "ctr images import $IMAGE >/dev/null && ctr images ls -q"},
	{name: "run", script: "run --rm $img r echo hi"},
	{name: "run exit status", script: "run --rm $img r sh -c 'echo out; echo err >&2; exit 7' 2>/dev/null"},
	{name: "run without a program", script: "run --rm $img r /nope"},
	{name: "run options", full: true, script: "run --rm --cwd /tmp --env A=b $img r sh -c 'id; pwd; echo $A'"},
	{name: "run mounts", script: `mkdir -p v; echo host >v/f
run --rm --mount type=bind,src=$PWD/v,dst=/v,options=rbind:ro $img r sh -c 'cat /v/f; touch /v/x 2>/dev/null; echo $?'; run --rm --read-only $img r touch /x`},
	{name: "run --rootfs", full: true, script: "cp -a ../root r; run --rm --rootfs $PWD/r r /bin/sh -c 'cat /etc/greeting; echo made >/made'; cat r/made"},
	{name: "run -t", full: true, script: `script -qec 'stty rows 31 cols 97; ctr run --runc-binary $BIN/$RUNTIME --rm -t docker.io/library/bb:latest r sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "run -d", script: `run -d $img c sh -c 'trap "exit 3" TERM; while :; do sleep 0.1; done'; ctr t ls | sed 1d | tr -s ' ' | cut -d' ' -f1,3; ctr c ls -q`},
	{name: "exec", script: "ctr t exec --exec-id e1 c sh -c 'echo out; echo err >&2; exit 9' 2>e; echo $?; cat e"},
	{name: "exec -t", script: `script -qec 'stty rows 31 cols 97; ctr t exec -t --exec-id e2 c sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "exec options", full: true, script: "ctr t exec --exec-id e3 --user 1000:1000 --cwd /tmp c sh -c 'id; pwd'"},
	{name: "exec without a program", script: "ctr t exec --exec-id e4 c /nope"},
	{name: "kill of an exec", script: "ctr t exec --exec-id e5 c sh -c 'echo $$ >/tmp/e5; exec sleep 1000' & wait_for ctr t exec --exec-id e6 c test -s /tmp/e5; ctr t kill --exec-id e5 -s KILL c; wait %1; echo $?"},
	{name: "ps", script: "ctr t ps c | sed 1d | wc -l", differs: "because containerd counts processes of the host, of which a container has one, the monitor", want: `^1\n`},
	{name: "pause", script: "ctr t pause c; ctr t ls | sed 1d | tr -s ' ' | cut -d' ' -f1,3; ctr t resume c; ctr t exec --exec-id e7 c echo on"},
	{name: "metrics", script: "ctr t metrics c | grep -c -E '^memory.usage(_in_bytes)? +[1-9]'"},
	{name: "kill", script: "ctr t kill -s TERM c; wait_for stopped c; ctr t rm c; echo $?; ctr c rm c; ctr c ls -q"},
	{name: "kill --all", script: "run -d $img c sh -c 'sleep 1000 & sleep 1000'; ctr t kill -a -s KILL c; wait_for stopped c; ctr t rm c; echo $?; ctr c rm c"},
	{name: "environment file", full: true, script: "printf 'A=b\nC=d\n' >env; run --rm --env-file env $img r sh -c 'echo $A $C'"},
	{name: "attach", full: true, script: "run -d $img c sh -c 'while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 3'; (wait_for test -s attached; ctr t exec --exec-id e8 c touch /tmp/go) & echo >attached; ctr t attach c; echo $?; wait; ctr t rm c; ctr c rm c"},
	{name: "pid file", full: true, script: "run -d --pid-file $PWD/pid $img c sleep 1000; [ $(cat pid) = $(ctr t ls | sed 1d | tr -s ' ' | cut -d' ' -f2) ] && echo the same; kill -9 $(cat pid); wait_for stopped c; ctr t rm c; echo $?; ctr c rm c"},
	{name: "memory limit", full: true, script: "run --rm --memory-limit 67108864 $cgroup $img r sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max'"},
	{name: "seccomp", full: true, script: "run --rm --seccomp $img r grep ^Seccomp: /proc/self/status; run --rm $img r grep ^Seccomp: /proc/self/status"},
	{name: "privileged", full: true, script: "run --rm --privileged $img r grep -E '^Cap(Eff|Bnd)' /proc/self/status"},
	{name: "capabilities", full: true, script: "run --rm --cap-add CAP_SYS_TIME --cap-drop CAP_CHOWN $img r grep ^CapEff /proc/self/status"},
	{name: "tmpfs", full: true, script: "run --rm --mount type=tmpfs,src=tmpfs,dst=/t,options=size=1m:mode=700 $img r sh -c 'stat -c %a /t; df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "label and info", full: true, script: "run -d --label a=b $img c sleep 1000; ctr c info c | grep -c '\"a\": \"b\"'; ctr t rm -f c; ctr c rm c"},
	{name: "memory limit of an exec", full: true, script: "run -d --memory-limit 67108864 $cgroup $img c sleep 1000; ctr t exec --exec-id e9 c sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max'; ctr t rm -f c; ctr c rm c"},
	{name: "checkpoint", full: true, script: "run -d $img c sleep 1000; ctr t checkpoint c >/dev/null 2>&1; echo $?; ctr t ls | sed 1d | tr -s ' ' | cut -d' ' -f3; ctr t rm -f c; ctr c rm c"},
	{name: "pull and push", newer: true, script: `ctr images pull --plain-http $REGISTRY/bb:1 >/dev/null; run --rm $REGISTRY/bb:1 r cat /etc/greeting
ctr images tag $REGISTRY/bb:1 $REGISTRY/new:1 >/dev/null; ctr images push --plain-http $REGISTRY/new:1 >/dev/null; ctr images rm $REGISTRY/bb:1 $REGISTRY/new:1 >/dev/null
ctr images pull --plain-http $REGISTRY/new:1 >/dev/null; run --rm $REGISTRY/new:1 r cat /etc/greeting`},
	{name: "task rm -f", script: "run -d $img c sleep 1000; ctr t rm -f c; echo $?; ctr c rm c; ctr t ls -q"},
}

func TestContainerd(t *testing.T) {
	needVM(t)
	needPrograms(t, "script", "busybox")
	reference, ours := startContainerd(t, containerdConf, ctrPrelude)
	compareSteps(t, reference, ours, containerdSteps)
}

// startContainerd starts a containerd and returns it as two engines, each with a namespace of its own. Both have the archive of an image, IMAGE.
func startContainerd(t *testing.T, conf, prelude string, more ...string) (reference, ours *engine) {
	t.Helper()
	programs := append([]string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"}, more...)
	needPrograms(t, programs...)
	dir := scratch(t)
	bin := localCopies(t, dir, append(programs, binary(t, "govmm-run"))...)
	copyClient(t, bin)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(fmt.Sprintf(conf, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + dir, "CONTAINERD_ADDRESS=" + dir + "/c.sock", "BIN=" + bin, "IMAGE=" + archive(t, dir)}
	var engines []*engine
	for _, runtime := range []string{"runc", "govmm-run"} {
		e := &engine{runtime: runtime, dir: filepath.Join(dir, runtime), prelude: prelude}
		e.env = append(env[:len(env):len(env)], "RUNTIME="+runtime, "CONTAINERD_NAMESPACE="+runtime)
		if err := os.MkdirAll(e.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	ready := func() bool {
		out, err := engines[0].run("ctr version >/dev/null 2>&1")
		return err == nil && out == "status 0\n"
	}
	startDaemon(t, dir, env, ready, filepath.Join(bin, "containerd"), "--config", path)
	addRegistry(t, engines...)
	return engines[0], engines[1]
}

// archive makes the image docker.io/library/bb in the form of docker save, which containerd and docker load.
func archive(t *testing.T, dir string) string {
	t.Helper()
	return archiveOf(t, dir, "bb", busyboxImage(t, dir))
}

// archiveOf makes one of an image's only layer.
func archiveOf(t *testing.T, dir, name, tarball string) string {
	t.Helper()
	layer, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
"rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`, sha256.Sum256(layer))
	manifest := fmt.Sprintf(`[{"Config": "config.json", "RepoTags": ["docker.io/library/%s:latest"], "Layers": ["layer.tar"]}]`, name)
	path := filepath.Join(dir, name+"-archive.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer}, {"config.json", []byte(config)}, {"manifest.json", []byte(manifest)}} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(file.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
