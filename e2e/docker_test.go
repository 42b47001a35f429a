package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const dockerConf = `{
  "data-root": "%[1]s/data", "exec-root": "%[1]s/exec", "pidfile": "%[1]s/docker.pid", "hosts": ["unix://%[1]s/d.sock"],
  "iptables": false, "ip6tables": false, "bridge": "none", "storage-driver": "overlay2",
  "runtimes": {"govmm-run": {"path": "%[2]s/govmm-run"}}
}
`

// dockerPrelude names the container after its runtime: both share the daemon.
const dockerPrelude = `
run() { docker run --runtime "$RUNTIME" --network none "$@"; }
c=c-$RUNTIME v=v-$RUNTIME
`

// dockerSteps is what people do with docker.
var dockerSteps = []step{
	{name: "run", script: "run --rm bb echo hi"},
	{name: "run streams", full: true, script: "run --rm bb sh -c 'echo out; echo err >&2; exit 7' 2>/dev/null"},
	{name: "run -i", full: true, script: "printf 'one\ntwo\n' | run -i --rm bb sh -c 'cat; echo EOF'"},
	{name: "run -it", full: true, script: `script -qec 'stty rows 31 cols 97; docker run --runtime $RUNTIME --network none -it --rm bb sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "run options", script: "run --rm --user 1000:1000 --group-add 2000 --workdir /new/dir -e A=b --hostname me --ulimit nofile=100:200 bb sh -c 'id; pwd; echo $A; hostname; ulimit -n'"},
	{name: "127 and 126", script: "run --rm bb /nope; echo $?; run --rm bb nope; echo $?; run --rm bb /etc/greeting; echo $?"},
	{name: "126 for a directory", full: true, script: "run --rm bb /etc 2>e; echo $?; grep -c 'exec: \"/etc\": ' e"},
	{name: "run --read-only", full: true, script: "run --rm --read-only --tmpfs /t bb sh -c 'exec 2>&1; touch /x; touch /t/x && echo made'"},
	{name: "capabilities", full: true, script: "run --rm --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges bb grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"},
	{name: "masked paths and devices", full: true, script: "run --rm bb sh -c 'exec 2>&1; cat /proc/kcore >/dev/null 2>&1; echo $?; ls /sys/firmware | wc -l; ls /dev | grep -v ^core; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "volumes", script: `mkdir -p v; echo host >v/f; run --rm -v $PWD/v:/v -v $PWD/v/f:/one:ro -v $v:/n bb sh -c 'exec 2>&1; cat /v/f /one; echo guest >/v/g; echo x >/one; echo named >/n/f'; cat v/g; run --rm -v $v:/n bb cat /n/f`},
	{name: "run -d", script: `run -d --name $c --tmpfs /t -v $v:/v bb sh -c 'trap "exit 3" TERM; trap "echo usr1" USR1; echo started; while :; do sleep 0.1; done'
wait_for sh -c "docker logs $c | grep started"; docker logs $c; docker ps --filter name=$c --format '{{.Names}} {{.Command}}'`},
	{name: "exec", script: "docker exec $c sh -c 'echo out; echo err >&2; exit 9' 2>e; echo $?; cat e; printf 'a\nb\n' | docker exec -i $c sh -c 'cat; echo EOF'"},
	{name: "exec -it", script: `script -qec 'stty rows 31 cols 97; docker exec -it c-$RUNTIME sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "exec options", script: "docker exec --user user --workdir /tmp -e X=y $c sh -c 'id; pwd; echo $X $HOME'; docker exec -d $c sh -c 'echo d >/tmp/d'; wait_for docker exec $c test -s /tmp/d; docker exec $c cat /tmp/d"},
	{name: "exec 127 and 126", script: "docker exec $c /nope; echo $?; docker exec $c nope; echo $?; docker exec $c /etc/greeting; echo $?"},
	{name: "cp", script: "echo copied >f; docker cp f $c:/tmp/f && docker exec $c cat /tmp/f; docker exec $c sh -c 'echo guest >/tmp/g'; docker cp $c:/tmp/g g; cat g; docker cp f $c:/v/f; docker exec $c cat /v/f"},
	{name: "top", script: "docker top $c | sed 1d | head -1 | grep -o 'sh -c.*'"},
	{name: "stats", script: "docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' $c | grep -c -E '^c-[^ ]* [1-9].*B / .*B$'"},
	{name: "kill -s", script: "docker kill -s USR1 $c; wait_for sh -c \"docker logs $c | grep usr1\"; docker logs $c"},
	{name: "pause", script: "docker pause $c; docker inspect $c --format '{{.State.Status}}'; docker exec $c true; docker unpause $c; docker exec $c echo on"},
	{name: "rm of a running container", full: true, script: "docker rm $c"},
	{name: "restart", full: true, script: "docker restart -t 20 $c; docker exec $c echo up"},
	{name: "stop", script: "docker stop -t 20 $c; docker wait $c; docker inspect $c --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}'"},
	{name: "cp on a stopped container", full: true, script: "echo later >f; docker cp f $c:/home/later; docker cp $c:/tmp/g g2; cat g2; docker exec $c true"},
	{name: "start, commit", full: true, script: "docker start $c; docker exec $c cat /home/later; docker commit $c new-$RUNTIME; run --rm new-$RUNTIME cat /home/later; docker diff $c | grep later"},
	{name: "rm -f", script: "docker rm -f $c; docker ps -aq --filter name=$c"},
	{name: "wait, 137", script: "run -d --name $c bb sleep 1000; docker kill $c; docker wait $c; docker rm $c"},
	{name: "restart policy", full: true, script: "run -d --name $c --restart on-failure:2 bb false; wait_for sh -c \"docker inspect $c --format '{{.RestartCount}} {{.State.Status}}' | grep '2 exited'\"; docker inspect $c --format '{{.RestartCount}} {{.State.ExitCode}}'; docker rm $c"},
	{name: "health check", full: true, script: "run -d --name $c --health-cmd 'test -e /tmp/ok' --health-interval 1s bb sh -c 'touch /tmp/ok; exec sleep 1000'; wait_for sh -c \"docker inspect $c --format '{{.State.Health.Status}}' | grep ^healthy\"; docker inspect $c --format '{{.State.Health.Status}}'; docker rm -f $c"},
	{name: "memory limit", script: "run --rm --memory 64m bb cat /sys/fs/cgroup/memory.max; run --name $c --memory 64m --memory-swap 64m --tmpfs /t bb dd if=/dev/zero of=/t/x bs=1M count=200; echo $?; docker inspect $c --format '{{.State.ExitCode}} {{.State.OOMKilled}}'; docker rm $c"},
	{
		name: "CPU limit", full: true, script: "run --rm --cpus 0.5 --cpu-shares 262144 bb sh -c 'cd /sys/fs/cgroup; cat cpu.max cpu.weight'",
		want: `^1\nmax 100000\n`,
	},
	{name: "update", script: "run -d --name $c --memory 64m --memory-swap 128m bb sleep 1000 >/dev/null; docker update --memory 128m --memory-swap 256m --pids-limit 77 $c; docker exec $c cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"},
	{name: "rename", full: true, script: "docker rename $c $c-new; docker exec $c-new echo renamed; docker rename $c-new $c"},
	{name: "top with options", full: true, script: "docker top $c -o pid,args | sed 1d | wc -l"},
	{name: "export", full: true, script: "docker export $c | tar -tf - | grep etc/greeting"},
	{name: "checkpoint", full: true, script: "docker checkpoint create $c cp >/dev/null 2>&1; echo $?; docker rm -f $c"},
	{name: "attach", full: true, script: `run -d -i --name $c bb sh -c 'read line; echo "got $line"; exit 5' >/dev/null; echo hello | docker attach $c >/dev/null; echo $?; docker logs $c; docker rm $c`},
	{name: "sysctls and shm", full: true, script: "run --rm --sysctl kernel.msgmax=9000 --shm-size 2m bb sh -c 'cat /proc/sys/kernel/msgmax; df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "seccomp profile", full: true, script: `echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]}' >s.json
run --rm --security-opt seccomp=$PWD/s.json bb mkdir /tmp/a; run --rm --security-opt seccomp=unconfined bb grep ^Seccomp: /proc/self/status`},
	{name: "entrypoint and environment", full: true, script: `echo FROM=file >env; run --rm --entrypoint /bin/script bb; run --rm --env-file env bb sh -c 'echo $FROM; env | cut -d= -f1 | sort'`},
	{name: "stop signal", full: true, script: `run -d --name $c --stop-signal USR1 bb sh -c 'trap "exit 4" USR1; while :; do sleep 0.1; done' >/dev/null; wait_for docker exec $c true; docker stop -t 20 $c; docker wait $c; docker rm $c`},
	{name: "143 and 137", full: true, script: `run -d --name $c bb sh -c 'trap "exit 143" TERM; while :; do sleep 0.1; done' >/dev/null; wait_for docker exec $c true; docker stop -t 20 $c; docker wait $c; docker rm $c; run -d --name $c bb sleep 1000 >/dev/null; docker stop -t 1 $c; docker wait $c; docker rm $c`},
	{name: "build", full: true, script: `mkdir -p b; printf 'FROM bb\nRUN echo built >/built && id -u\nENV A=b\nCMD cat /built\n' >b/Dockerfile
DOCKER_BUILDKIT=0 docker build -q --network none -t made-$RUNTIME b >/dev/null; run --rm made-$RUNTIME`},
	{name: "events", full: true, script: `since=$(date +%s); run --rm --name $c bb true; docker events --since $since --until $(($(date +%s)+1)) --filter container=$c --format '{{.Action}}' | grep -v -E 'attach|network|mount'`},
	{name: "locks between containers", full: true, script: `run -d --name $c -v $v:/v -v $BIN/client:/client bb sh -c 'touch /v/lock; /client lock /v/lock sh -c "touch /v/held; while [ ! -e /v/pass ]; do sleep 0.1; done; echo first >>/v/order"; sleep 1000' >/dev/null
wait_for docker exec $c test -e /v/held; run --rm -v $v:/v -v $BIN/client:/client bb sh -c '/client try-lock /v/lock; touch /v/pass; /client lock /v/lock sh -c "echo second >>/v/order"; cat /v/order'; docker rm -f $c`},
	{name: "pull and push", newer: true, script: `docker pull -q $REGISTRY/bb:1 >/dev/null; run --name p-$RUNTIME $REGISTRY/bb:1 sh -c 'cat /etc/greeting; echo pushed >/pushed'
docker commit p-$RUNTIME $REGISTRY/new:1 >/dev/null; docker push -q $REGISTRY/new:1 >/dev/null; docker rm p-$RUNTIME >/dev/null; docker rmi $REGISTRY/new:1 $REGISTRY/bb:1 >/dev/null
run --rm $REGISTRY/new:1 cat /pushed 2>/dev/null`},
	{name: "prune", full: true, script: "docker create --runtime $RUNTIME --label mine=$c --name $c bb true >/dev/null; wait_for sh -c \"docker container prune -f --filter label=mine=$c >pruned\"; grep -cE '^[0-9a-f]{12,64}$' pruned; docker ps -aq --filter name=$c"},
	{name: "volume rm", script: "docker volume rm $v"},
}

// debiansDocker puts Debian's docker before others: a newer client in /usr/local asks Debian's dockerd for what that cannot do.
func debiansDocker(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", "/usr/sbin:/usr/bin:"+os.Getenv("PATH"))
}

func TestDocker(t *testing.T) {
	needVM(t)
	debiansDocker(t)
	needPrograms(t, "script", "busybox")
	reference, ours := startDocker(t, dockerConf)
	compareSteps(t, reference, ours, dockerSteps)
}

// startDocker starts a dockerd with the image bb, and returns it as two engines.
func startDocker(t *testing.T, conf string) (reference, ours *engine) {
	t.Helper()
	programs := []string{"dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc"}
	// apparmor_parser is what dockerd loads its profile with where the kernel has AppArmor, as the test host's.
	needPrograms(t, append(programs, "apparmor_parser")...)
	dir := scratch(t)
	bin := localCopies(t, dir, append(programs, binary(t, "govmm-run"))...)
	copyClient(t, bin)
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + dir, "BIN=" + bin, "DOCKER_HOST=unix://" + dir + "/d.sock"}
	path := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(path, []byte(fmt.Sprintf(conf, dir, bin)), 0o644); err != nil {
		t.Fatal(err)
	}
	var engines []*engine
	for _, runtime := range []string{"runc", "govmm-run"} {
		e := &engine{runtime: runtime, dir: filepath.Join(dir, runtime), prelude: dockerPrelude}
		e.env = append(env[:len(env):len(env)], "RUNTIME="+runtime)
		if err := os.MkdirAll(e.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	ready := func() bool {
		out, err := engines[0].run("docker version >/dev/null 2>&1")
		return err == nil && out == "status 0\n"
	}
	startDaemon(t, dir, env, ready, filepath.Join(bin, "dockerd"), "--config-file", path)
	if out, err := engines[0].run("docker load -q -i " + archive(t, dir)); err != nil || !strings.HasSuffix(out, "status 0\n") {
		t.Fatalf("docker load: %s%v", out, err)
	}
	addRegistry(t, engines...)
	return engines[0], engines[1]
}
