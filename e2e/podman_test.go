package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// podmanConf tells podman to keep to its directory and to need neither systemd nor a network.
const podmanConf = `[engine]
cgroup_manager="cgroupfs"
events_logger="file"
tmp_dir="%[1]s/tmp"
volume_path="%[1]s/volumes"
conmon_path=["%[2]s/conmon"]
runtime="%[3]s"
runtime_supports_json=["runc","govmm-run"]
[engine.runtimes]
runc=["%[2]s/runc"]
govmm-run=["%[2]s/govmm-run"]
[containers]
log_driver="k8s-file"
default_ulimits=[]
netns="none"
`

const podmanStorage = `[storage]
driver="overlay"
graphroot="%[1]s/graph"
runroot="%[1]s/run"
`

// newPodman makes a podman of its own for a runtime, with the image bb.
func newPodman(t *testing.T, dir, bin, runtime, image string) *engine {
	t.Helper()
	e := &engine{runtime: runtime, dir: filepath.Join(dir, runtime), prelude: podmanPrelude}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"containers.conf": fmt.Sprintf(podmanConf, e.dir, bin, runtime),
		"storage.conf":    fmt.Sprintf(podmanStorage, e.dir),
	} {
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e.env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + e.dir, "CONTAINERS_CONF=" + e.dir + "/containers.conf",
		"CONTAINERS_STORAGE_CONF=" + e.dir + "/storage.conf", "BIN=" + bin, "RUNTIME=" + runtime,
	}
	t.Cleanup(func() {
		// What podman's storage has mounted goes with what it removes.
		if out, err := e.run("podman rm -fa -t 0 >/dev/null; podman volume rm -fa >/dev/null; umount " + e.dir + "/graph/overlay 2>/dev/null; true"); err != nil {
			t.Errorf("%s: clean up: %s%v", runtime, out, err)
		}
	})
	if out, err := e.run("podman import " + image + " bb"); err != nil || !hexID.MatchString(out) {
		t.Fatalf("podman import: %s%v", out, err)
	}
	return e
}

// busyboxImage makes a tar of a busybox root file system and returns its path.
func busyboxImage(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "bb.tar")
	script := `set -e; mkdir -p root/bin root/etc root/tmp root/root root/home root/var; cp $(command -v busybox) root/bin/busybox
chroot root /bin/busybox --install -s /bin; chmod 1777 root/tmp
printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n' >root/etc/passwd
printf 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n' >root/etc/group
echo hello >root/etc/greeting; printf '#!/bin/sh\necho script\n' >root/bin/script; chmod 755 root/bin/script
tar -C root -cf bb.tar .`
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("busybox image: %v: %s", err, out)
	}
	return path
}

// podmanPrelude has a service manager's socket at $PWD/n, and says what podman and the container n told it, and by whose pid.
const podmanPrelude = `
manager() { rm -f n; (exec -a /client "$BIN/client" manager "$PWD/n" >told) & wait_for test -S n; }
told() { wait_for grep -q "$1" told; sed "s/=$(podman inspect n --format '{{.State.ConmonPid}}')\$/=conmon/" told; }
forget() { kill %1; podman rm -f -t 0 n; }
`

// podmanSteps is what people do with podman, from an image to nothing left.
var podmanSteps = []step{
	{name: "run", script: "podman run --rm bb echo hi"},
	{name: "run streams", full: true, script: "podman run --rm bb sh -c 'echo out; echo err >&2; exit 7' 2>/dev/null"},
	{name: "run -i", script: "printf 'one\ntwo\n' | podman run -i --rm bb sh -c 'cat; echo EOF'"},
	{name: "run -it", full: true, script: `script -qec 'stty rows 31 cols 97; podman run -it --rm bb sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "run user", script: "podman run --rm --user user --group-add 2000 --workdir /tmp -e A=b --hostname me bb sh -c 'id; pwd; echo $A $HOME; hostname; umask'"},
	{name: "run numeric user", full: true, script: "podman run --rm --user 1234:4321 --workdir /home bb sh -c 'id; pwd; echo $HOME'; podman run --rm --workdir /new/dir bb pwd"},
	{name: "entrypoint", full: true, script: "podman run --rm --entrypoint '[\"/bin/script\"]' bb"},
	{name: "127", full: true, script: "podman run --rm bb /nope; echo $?; podman run --rm bb nope; echo $?"},
	{name: "126", full: true, script: "podman run --rm bb /etc/greeting; echo $?"},
	{name: "126 for a directory", full: true, script: "podman run --rm bb /etc 2>e; echo $?; grep -c 'exec: \"/etc\": ' e"},
	{name: "137", full: true, script: "podman run --rm bb sh -c \"sh -c 'kill -9 \\$\\$'; exit \\$?\""},
	{name: "without JSON", script: "podman --runtime $BIN/$RUNTIME run --rm bb /nope 2>&1 | sed 's/^time=[^ ]* /time= /'"},
	{name: "run --read-only", script: "podman run --rm --read-only --tmpfs /t:size=1m bb sh -c 'exec 2>&1; touch /x; touch /t/x /tmp/x && df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "capabilities", script: "podman run --rm --cap-drop all --cap-add chown bb grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"},
	{name: "default capabilities", full: true, script: "podman run --rm --security-opt no-new-privileges bb grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"},
	{name: "ulimit", full: true, script: "podman run --rm --ulimit nofile=100:200 bb sh -c 'ulimit -n; ulimit -Hn'"},
	{name: "sysctl", full: true, script: "podman run --rm --sysctl kernel.msgmax=9000 --sysctl net.ipv4.ip_forward=1 bb cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward"},
	{name: "masked paths", full: true, script: "podman run --rm bb sh -c 'exec 2>&1; for f in kcore keys timer_list sched_debug; do cat /proc/$f 2>/dev/null | wc -c; done; ls /sys/firmware | wc -l; echo 1 >/proc/sys/kernel/msgmax'"},
	{name: "devices", full: true, script: "podman run --rm bb sh -c 'ls /dev | grep -v ^core; echo x >/dev/null; head -c 3 /dev/zero | od -An -c; ls -l /dev/null | cut -c1-10'"},
	{name: "shm", full: true, script: "podman run --rm --shm-size 2m bb sh -c 'df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2; echo x >/dev/shm/x; cat /dev/shm/x; stat -c %a /dev/shm'"},
	{name: "files of the engine", full: true, script: "podman run --rm --hostname h bb sh -c 'cat /etc/hostname; wc -l </etc/hosts; ls /run/.containerenv; echo 1.2.3.4 x >>/etc/hosts; tail -1 /etc/hosts'"},
	{name: "volumes", full: true, script: `mkdir -p v; echo host >v/f
podman run --rm -v $PWD/v:/v -v $PWD/v/f:/one bb sh -c 'cat /v/f /one; echo guest >/v/g'; cat v/g
podman run --rm -v $PWD/v:/v:ro bb touch /v/x; ls v`},
	{name: "named volume", full: true, script: `podman run --rm -v vol:/etc bb sh -c 'cat /etc/greeting; echo more >/etc/more'
podman run --rm -v vol:/v bb cat /v/more; podman volume ls -q`},
	{name: "environment", full: true, script: "podman run --rm bb env | sort"},
	{name: "rootfs", full: true, script: `cp -a ../root r; podman run --rm --rootfs $PWD/r sh -c 'echo made >/made' && cat r/made`},
	{name: "run --timeout", full: true, script: "podman run --rm --timeout 2 bb sleep 100"},

	{name: "run -d", script: `podman run -d --name c --pidfile $PWD/pid --tmpfs /t -v vol:/v bb sh -c 'trap "exit 3" TERM; trap "echo usr1" USR1; echo started; while :; do sleep 0.1; done'
wait_for sh -c 'podman logs c | grep started'; podman logs c; podman ps --format '{{.Names}} {{.Command}}'`},
	{name: "inspect", script: `podman inspect c --format '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}'; [ "$(podman inspect c --format '{{.State.Pid}}')" = "$(cat pid)" ] && echo same pid`},
	{name: "exec", script: "podman exec c sh -c 'echo out; echo err >&2; exit 9' 2>e; echo $?; cat e"},
	{name: "exec -i", full: true, script: "printf 'a\nb\n' | podman exec -i c sh -c 'cat; echo EOF'"},
	{name: "exec without -i", full: true, script: "printf 'a\nb\n' | podman exec c sh -c 'cat; echo EOF'"},
	{name: "exec -it", script: `script -qec 'stty rows 31 cols 97; podman exec -it c sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "exec -d", full: true, script: "podman exec -d c sh -c 'echo done >/tmp/d'; wait_for podman exec c test -s /tmp/d; podman exec c cat /tmp/d"},
	{name: "exec options", script: "podman exec --user 1000:2000 --workdir /tmp -e X=y c sh -c 'id; pwd; echo $X $HOME; grep -E ^Cap /proc/self/status'"},
	{name: "exec user by name", full: true, script: "podman exec --user user c sh -c 'id; echo $HOME'"},
	{name: "exec --privileged", full: true, script: "podman exec --privileged c grep -E '^(CapPrm|CapEff)' /proc/self/status"},
	{name: "exec 127 and 126", script: "podman exec c /nope; echo $?; podman exec c nope; echo $?; podman exec c /etc/greeting; echo $?; podman exec --workdir /nowhere c true; echo $?"},
	{name: "exec killed", full: true, script: "podman exec c sh -c 'kill -9 $$'"},
	{name: "cp to a running container", script: "echo copied >f; podman cp f c:/tmp/f && podman exec c cat /tmp/f; podman exec c stat -c '%u %a' /tmp/f"},
	{name: "cp from a running container", script: "podman exec c sh -c 'echo guest >/tmp/g'; podman cp c:/tmp/g g; cat g; podman cp c:/etc/greeting - | tar -xO"},
	{name: "cp of a directory", full: true, script: "mkdir -p d/e; echo 1 >d/e/f; podman cp d c:/home/; podman exec c cat /home/d/e/f; podman cp c:/home/d out; cat out/e/f"},
	{name: "cp to a volume", full: true, script: "podman cp f c:/v/f; podman exec c cat /v/f"},
	{
		name: "cp to a tmpfs", script: "podman cp f c:/t/f; podman exec c ls /t", differs: "because the tmpfs is the guest's: the engine finds an empty read-only one there and says so",
		want: `read-only file system`,
	},
	// podman reads /proc itself under both, and fails if a process has gone meanwhile: the container's "sleep 0.1".
	{name: "top", script: "wait_for sh -c 'podman top c pid ppid user args >t 2>/dev/null'; sed 1d t | head -1 | tr -s ' '"},
	{name: "stats", script: `podman stats --no-stream --format '{{.Name}} {{.MemUsage}}' c | grep -c -E '^c [1-9].*B / .*B$'`},
	{name: "kill -s", script: "podman kill -s USR1 c; wait_for sh -c 'podman logs c | grep usr1'; podman logs c"},
	{name: "pause", script: "podman pause c; podman inspect c --format '{{.State.Status}}'; podman exec c true; podman unpause c; podman exec c echo on"},
	{name: "attach", full: true, script: "timeout -s KILL 20 podman attach --no-stdin --sig-proxy=false c >o & sleep 2; podman kill -s USR1 c; wait_for grep usr1 o; cat o; kill -9 %1 2>/dev/null; true"},
	{name: "rm of a running container", full: true, script: "podman rm c"},
	{name: "stop", script: "podman stop -t 20 c; podman wait c; podman inspect c --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}'"},
	{name: "cp on a stopped container", script: "echo later >f; podman cp f c:/home/later; podman cp c:/tmp/g g2; cat g2"},
	{name: "exec on a stopped container", full: true, script: "podman exec c true"},
	{name: "start again", script: "podman start c; podman exec c cat /home/later; podman exec c ls /t"},
	{name: "restart", full: true, script: "podman restart -t 20 c; podman exec c echo up"},
	{name: "signal to the pid", script: "kill -TERM $(cat pid); podman wait c"},
	{name: "commit", full: true, script: "podman commit -q c new; podman run --rm new cat /home/later; podman diff c | grep -E 'later|/tmp/g'"},
	{name: "export", full: true, script: "podman export c | tar -tf - | grep -E 'home/later|etc/greeting'"},
	{name: "events", full: true, script: "podman events --stream=false --filter container=$(podman inspect c --format '{{.Id}}') --format '{{.Status}}' | grep -v -E 'exec|mount|cleanup|stop' | sort | uniq -c"},
	{name: "rm", script: "podman rm c; podman container exists c"},
	{name: "stop by SIGKILL", full: true, script: "podman run -d --name k bb sleep 1000; podman stop -t 1 k; podman wait k; podman rm k"},
	{name: "kill", full: true, script: "podman run -d --name k bb sleep 1000; podman kill k; podman wait k; podman rm k"},
	{name: "rm -f", script: "podman run -d --name k bb sleep 1000; podman rm -f -t 0 k; podman ps -aq"},
	{name: "create, start -a", full: true, script: "podman create --name a -i bb sh -c 'cat; echo EOF; exit 4'; echo in | podman start -ai a; echo $?; podman logs a; podman rm a"},
	{name: "rm of a created container", script: "podman create --name a bb true; podman init a; podman inspect a --format '{{.State.Status}}'; podman rm -f a"},
	{name: "wait", full: true, script: "podman run -d --name w bb sh -c 'sleep 2; exit 6'; podman wait w; podman rm w"},
	{name: "restart policy", full: true, script: `podman run -d --name r --restart on-failure:2 bb false
wait_for sh -c 'podman inspect r --format "{{.RestartCount}} {{.State.Status}}" | grep "2 exited"'; podman inspect r --format '{{.RestartCount}} {{.State.ExitCode}}'; podman rm r`},
	{name: "health check", full: true, script: `podman run -d --name h --health-cmd 'test -e /tmp/ok' --health-interval disable bb sleep 1000
podman healthcheck run h; echo $?; podman exec h touch /tmp/ok; podman healthcheck run h; echo $?; podman rm -f -t 0 h`},
	{name: "shared volume", full: true, script: `podman run -d --name s1 -v vol:/v bb sh -c 'echo first >/v/log; while [ ! -e /v/go ]; do sleep 0.1; done; cat /v/second >/v/answer; sleep 1000'
wait_for podman exec s1 test -e /v/log; podman run --rm -v vol:/v bb sh -c 'cat /v/log; echo second >/v/second; touch /v/go; while [ ! -s /v/answer ]; do sleep 0.1; done; cat /v/answer'; podman rm -f -t 0 s1`},
	{name: "build", full: true, script: `mkdir -p b; printf 'FROM bb\nRUN echo built >/built && id -u\nENV A=b\nCMD cat /built\n' >b/Containerfile
podman build -q --network none -t made b >/dev/null; podman run --rm made`},
	{name: "memory limit", script: "podman run --rm --memory 64m bb cat /sys/fs/cgroup/memory.max; podman run --name o --memory 64m --memory-swap 64m --tmpfs /t:rw,size=300m bb dd if=/dev/zero of=/t/x bs=1M count=200; echo $?; podman inspect o --format '{{.State.ExitCode}} {{.State.OOMKilled}}'; podman rm o"},
	{name: "seccomp profile", full: true, script: `echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]}' >s.json
podman run --rm --security-opt seccomp=$PWD/s.json bb mkdir /tmp/a; podman run --rm --security-opt seccomp=unconfined bb grep ^Seccomp: /proc/self/status`},
	{name: "143", full: true, script: `podman run -d --name t bb sh -c 'trap "exit 143" TERM; while :; do sleep 0.1; done' >/dev/null; wait_for podman exec t true; podman stop -t 20 t; podman wait t; podman rm t`},
	{name: "checkpoint", full: true, script: "podman run -d --name x bb sleep 1000 >/dev/null; podman container checkpoint x >/dev/null 2>&1; echo $?; podman inspect x --format '{{.State.Status}}'; podman rm -f -t 0 x"},
	{name: "locks between containers", full: true, script: `podman run -d --name l -v vol:/v -v $BIN/client:/client bb sh -c 'touch /v/lock; /client lock /v/lock sh -c "touch /v/held; while [ ! -e /v/pass ]; do sleep 0.1; done; echo first >>/v/order"; sleep 1000' >/dev/null
wait_for podman exec l test -e /v/held; podman run --rm -v vol:/v -v $BIN/client:/client bb sh -c '/client try-lock /v/lock; touch /v/pass; /client lock /v/lock sh -c "echo second >>/v/order"; cat /v/order'; podman rm -f -t 0 l`},
	{name: "sdnotify=container", script: `manager; NOTIFY_SOCKET=$PWD/n podman run -d --name n --sdnotify=container -v $BIN/client:/client bb sh -c 'until [ -e /tmp/go ]; do sleep 0.1; done
echo "STATUS=x" | /client unixgram $NOTIFY_SOCKET; echo READY=1 | /client unixgram $NOTIFY_SOCKET; echo sent; exec sleep 1000'
told MAINPID; podman exec n touch /tmp/go; told READY; podman logs n; forget`},
	{name: "sdnotify=conmon", full: true, script: `manager; NOTIFY_SOCKET=$PWD/n podman run -d --name n --sdnotify=conmon bb sh -c 'echo $NOTIFY_SOCKET; exec sleep 1000'; told READY; podman logs n; forget`},
	{name: "sdnotify=ignore", full: true, script: `manager; NOTIFY_SOCKET=$PWD/n podman run -d --name n --sdnotify=ignore bb sh -c 'echo $NOTIFY_SOCKET; exec sleep 1000'; podman exec n true; cat told; podman logs n; forget`},
	{name: "pull and push", newer: true, script: `podman pull -q --tls-verify=false $REGISTRY/bb:1 >/dev/null; podman run --name p $REGISTRY/bb:1 sh -c 'cat /etc/greeting; echo pushed >/pushed'
podman commit -q p $REGISTRY/new:1 >/dev/null; podman push -q --tls-verify=false $REGISTRY/new:1; podman rm p >/dev/null; podman rmi $REGISTRY/new:1 $REGISTRY/bb:1 >/dev/null
podman run --rm -q --tls-verify=false $REGISTRY/new:1 cat /pushed`},
	{name: "prune", full: true, script: "podman create --name p bb true >/dev/null; podman container prune -f | wc -l; podman ps -aq"},
}

func TestPodman(t *testing.T) {
	needVM(t)
	needPrograms(t, "podman", "conmon", "runc", "script", "busybox")
	reference, ours := startPodman(t)
	compareSteps(t, reference, ours, podmanSteps)
}

// startPodman makes a podman for each runtime.
func startPodman(t *testing.T) (reference, ours *engine) {
	t.Helper()
	dir := scratch(t)
	image := busyboxImage(t, dir)
	bin := localCopies(t, dir, "podman", "conmon", "runc", binary(t, "govmm-run"))
	copyClient(t, bin)
	reference, ours = newPodman(t, dir, bin, "runc", image), newPodman(t, dir, bin, "govmm-run", image)
	addRegistry(t, reference, ours)
	return reference, ours
}
