package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

const nerdctlConf = `data_root = "%[1]s/nerdctl"
cgroup_manager = "cgroupfs"
cni_path = "%[1]s/cni"
cni_netconfpath = "%[1]s/cni.d"
`

const nerdctlPrelude = `
export NERDCTL_TOML=$PWD/nerdctl.toml
run() { nerdctl run --runtime "$BIN/$RUNTIME" --network none "$@"; }
`

// nerdctlSteps is what people do with nerdctl.
var nerdctlSteps = []step{
	{name: "load", script: "nerdctl load -q -i $IMAGE >/dev/null; nerdctl images --format '{{.Repository}}:{{.Tag}}'"},
	{name: "run", script: "run --rm bb echo hi"},
	{name: "run streams", script: "run --rm bb sh -c 'echo out; echo err >&2; exit 7' 2>/dev/null"},
	// nerdctl forgets that its input has ended if it does so before the task is known (taskutil.StdinCloser), and waits for ever.
	{name: "run -i", script: "{ printf 'one\ntwo\n'; wait_for sh -c 'nerdctl ps | grep \"sh -c cat\"'; } | run -i --rm bb sh -c 'cat; echo EOF'"},
	{name: "run -it", script: `script -qec 'stty rows 31 cols 97; nerdctl run --runtime $BIN/$RUNTIME --network none -it --rm bb sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "run options", script: "run --rm --user 1000:1000 --group-add 2000 --workdir /new/dir -e A=b --hostname me --ulimit nofile=100:200 bb sh -c 'id; pwd; echo $A; hostname; ulimit -n'"},
	{name: "127 and 126", script: "run --rm bb /nope 2>&1 | grep -o 'exec: .*'; run --rm bb nope >/dev/null 2>&1; echo $?; run --rm bb /etc/greeting 2>&1 | grep -o 'exec: .*'"},
	{name: "run --read-only", script: "run --rm --read-only --tmpfs /t bb sh -c 'exec 2>&1; touch /x; touch /t/x && echo made'"},
	{name: "capabilities", script: "run --rm --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges bb grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"},
	{name: "devices", script: "run --rm bb sh -c 'exec 2>&1; cat /proc/kcore >/dev/null 2>&1; echo $?; ls /dev | grep -v ^core; df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "volumes", script: `mkdir -p v; echo host >v/f; run --rm -v $PWD/v:/v -v $PWD/v/f:/one:ro -v nn:/n bb sh -c 'exec 2>&1; cat /v/f /one; echo guest >/v/g; echo x >/one; echo named >/n/f'; cat v/g; run --rm -v nn:/n bb cat /n/f`},
	{name: "run -d", script: `run -d --name cc --pidfile $PWD/pid --tmpfs /t -v nn:/v bb sh -c 'trap "exit 3" TERM; trap "echo usr1" USR1; echo started; while :; do sleep 0.1; done'
wait_for sh -c 'nerdctl logs cc | grep started'; nerdctl logs cc; nerdctl ps --format '{{.Names}} {{.Command}}'`},
	{name: "inspect", script: `nerdctl inspect cc --format '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}'; [ "$(nerdctl inspect cc --format '{{.State.Pid}}')" = "$(cat pid)" ] && echo same pid`},
	{name: "exec", script: "nerdctl exec cc sh -c 'echo out; echo err >&2; exit 9' 2>e; echo $?; grep err e; printf 'a\nb\n' | nerdctl exec -i cc sh -c 'cat; echo EOF'"},
	{name: "exec -it", script: `script -qec 'stty rows 31 cols 97; nerdctl exec -it cc sh -c "tty; until stty size 2>&1 | grep ^31; do sleep 0.1; done"' /dev/null </dev/null`},
	{name: "exec options", script: "nerdctl exec --user user --workdir /tmp -e X=y cc sh -c 'id; pwd; echo $X'; nerdctl exec -d cc sh -c 'echo d >/tmp/d'; wait_for nerdctl exec cc test -s /tmp/d; nerdctl exec cc cat /tmp/d"},
	{name: "exec 127 and 126", script: "nerdctl exec cc /nope; echo $?; nerdctl exec cc /etc/greeting; echo $?"},
	{name: "cp", script: "echo copied >f; nerdctl cp f cc:/tmp/f && nerdctl exec cc cat /tmp/f; nerdctl exec cc sh -c 'echo guest >/tmp/g'; nerdctl cp cc:/tmp/g g; cat g; nerdctl cp f cc:/v/f; nerdctl exec cc cat /v/f"},
	{name: "cp of a directory", script: "mkdir -p d/e; echo 1 >d/e/f; nerdctl cp d cc:/home/; nerdctl exec cc cat /home/d/e/f; nerdctl cp cc:/home/d out; cat out/e/f"},
	{name: "top", script: "nerdctl top cc | sed 1d | head -1 | grep -o 'sh -c.*'"},
	{name: "stats", script: "nerdctl stats --no-stream --format '{{.Name}} {{.MemUsage}}' cc | grep -c -E '^cc [1-9].*B / .*B$'"},
	{name: "kill -s", script: "nerdctl kill -s USR1 cc; wait_for sh -c 'nerdctl logs cc | grep usr1'; nerdctl logs cc"},
	{name: "pause", script: "nerdctl pause cc; nerdctl inspect cc --format '{{.State.Status}}'; nerdctl exec cc true; nerdctl unpause cc; nerdctl exec cc echo on"},
	{name: "rm of a running container", script: "nerdctl rm cc"},
	{name: "restart", script: "nerdctl restart -t 20 cc; nerdctl exec cc echo up"},
	{name: "stop", script: "nerdctl stop -t 20 cc; nerdctl wait cc; nerdctl inspect cc --format '{{.State.Status}} {{.State.ExitCode}}' 2>/dev/null"},
	{name: "cp on a stopped container", script: "echo later >f; nerdctl cp f cc:/home/later; nerdctl cp cc:/tmp/g g2; cat g2; nerdctl exec cc true"},
	{name: "start, commit, diff", script: "nerdctl start cc; nerdctl exec cc cat /home/later; nerdctl commit cc new >/dev/null; run --rm new cat /home/later; nerdctl diff cc | grep later"},
	{name: "rename", script: "nerdctl rename cc c2; nerdctl exec c2 echo renamed; nerdctl rename c2 cc"},
	{name: "update", script: "nerdctl update --memory 128m --pids-limit 77 cc; nerdctl exec cc cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"},
	{name: "rm -f", script: "nerdctl rm -f cc; nerdctl ps -aq"},
	{name: "create, start -a", script: "nerdctl create --runtime $BIN/$RUNTIME --network none --name aa bb sh -c 'echo out; exit 4' >/dev/null; nerdctl start -a aa; echo $?; nerdctl logs aa; nerdctl rm aa"},
	{name: "137 and 143", script: `run -d --name kk bb sleep 1000 >/dev/null; nerdctl kill kk; nerdctl wait kk; nerdctl rm kk
run -d --name kk bb sh -c 'trap "exit 143" TERM; while :; do sleep 0.1; done' >/dev/null; wait_for nerdctl exec kk true; nerdctl stop -t 20 kk; nerdctl wait kk; nerdctl rm kk`},
	{name: "attach", script: `run -d -i --name tt bb sh -c 'read line; echo "got $line"; exit 5' >/dev/null; echo hello | nerdctl attach tt; echo $?; nerdctl logs tt; nerdctl rm -f tt`},
	{name: "memory limit", script: "run --rm --memory 64m bb cat /sys/fs/cgroup/memory.max; run --rm --memory 64m --memory-swap 64m --tmpfs /t bb dd if=/dev/zero of=/t/x bs=1M count=200; echo $?"},
	{
		name: "CPU limit", script: "run --rm --cpus 0.5 --cpu-shares 262144 bb sh -c 'cd /sys/fs/cgroup; cat cpu.max cpu.weight'",
		want: `^1\nmax 100000\n`,
	},
	{name: "sysctls and shm", script: "run --rm --sysctl kernel.msgmax=9000 --shm-size 2m bb sh -c 'cat /proc/sys/kernel/msgmax; df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'"},
	{name: "seccomp profile", script: `echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]}' >s.json
run --rm --security-opt seccomp=$PWD/s.json bb mkdir /tmp/a; run --rm --security-opt seccomp=unconfined bb grep ^Seccomp: /proc/self/status`},
	{name: "entrypoint and environment", script: `echo FROM=file >env; run --rm --entrypoint /bin/script bb; run --rm --env-file env bb sh -c 'echo $FROM; env | cut -d= -f1 | sort'`},
	{name: "--init", script: "command -v tini-static >/dev/null || exit 0; run --rm --init --init-binary $(command -v tini-static) bb sh -c 'tr \"\\0\" \" \" </proc/1/cmdline'"},
	{name: "export", script: "nerdctl create --runtime $BIN/$RUNTIME --network none --name ee bb true >/dev/null; nerdctl export ee | tar -tf - | grep etc/greeting; nerdctl rm ee"},
	{name: "pull and push", newer: true, script: `nerdctl pull -q --insecure-registry $REGISTRY/bb:1 >/dev/null; run --name pp $REGISTRY/bb:1 sh -c 'cat /etc/greeting; echo pushed >/pushed'
nerdctl commit pp $REGISTRY/new:1 >/dev/null; nerdctl push -q --insecure-registry $REGISTRY/new:1 >/dev/null; nerdctl rm pp >/dev/null; nerdctl rmi $REGISTRY/new:1 $REGISTRY/bb:1 >/dev/null
run --rm --insecure-registry $REGISTRY/new:1 cat /pushed 2>/dev/null`},
	{name: "prune", script: "nerdctl create --runtime $BIN/$RUNTIME --network none --name pp bb true >/dev/null; nerdctl container prune -f | grep -cE '^[0-9a-f]{12,64}$'; nerdctl ps -aq"},
	{name: "volume rm", script: "nerdctl volume rm nn; nerdctl volume ls -q"},
}

func TestNerdctl(t *testing.T) {
	needVM(t)
	needNewer(t)
	needPrograms(t, "script", "busybox")
	reference, ours := startContainerd(t, containerd2Conf, nerdctlPrelude, "nerdctl")
	for _, e := range []*engine{reference, ours} {
		if err := os.WriteFile(filepath.Join(e.dir, "nerdctl.toml"), []byte(fmt.Sprintf(nerdctlConf, e.dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compareSteps(t, reference, ours, nerdctlSteps)
}
