package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// podmanSystemdConf has podman leave cgroups and timers to systemd.
const podmanSystemdConf = `[engine]
cgroup_manager="systemd"
events_logger="file"
volume_path="DIR/volumes"
conmon_path=["/opt/conmon"]
runtime="runc"
runtime_supports_json=["runc","govmm-run"]
[engine.runtimes]
runc=["/opt/runc"]
govmm-run=["/opt/govmm-run"]
[containers]
log_driver="k8s-file"
default_ulimits=[]
netns="none"
`

const podmanSystemdStorage = `[storage]
driver="overlay"
graphroot="DIR/graph"
runroot="/run/containers/storage"
`

// podmanSystemdPrelude names the container after its runtime: both are of one podman, as one systemd starts `podman healthcheck run`.
const podmanSystemdPrelude = `
c=c-$RUNTIME
run() { podman --runtime "$RUNTIME" run --name "$c" "$@"; }
health() { wait_for sh -c "podman inspect $c --format '{{.State.Health.Status}}' | grep -x $1" && echo "$1"; }
timer() { systemctl list-units --all --no-legend --plain "$(cat $c.id)*.timer" | tr -s ' ' | cut -d' ' -f2-4; }
no_timer() { [ -z "$(timer)" ]; }
active() { systemctl is-active "$1" | grep -x "$2"; }
`

// podmanSystemdSteps is what podman does with a systemd.
var podmanSystemdSteps = []step{
	{name: "scope", script: `run -d --memory 64m bb sleep 1000 >$c.id; systemctl show -p ActiveState -p Slice libpod-$(cat $c.id).scope
podman exec $c cat /sys/fs/cgroup/memory.max; podman rm -f -t 0 $c >/dev/null; wait_for active libpod-$(cat $c.id).scope inactive && echo gone`},
	{name: "health checks by timer", script: `run -d --health-cmd 'test -e /tmp/ok' --health-interval 4s --health-retries 1 bb sleep 1000 >$c.id
health unhealthy; timer; podman exec $c touch /tmp/ok; health healthy`},
	{name: "stop ends the timer", script: `podman stop -t 1 $c >/dev/null; wait_for no_timer && echo none; podman inspect $c --format '{{.State.Status}} {{.State.ExitCode}}'`},
	{name: "rm ends the timer", script: `podman rm -f -t 0 $c >/dev/null; wait_for no_timer && echo none`},
	{name: "service that says when it is ready", script: `systemd-run --quiet --unit $c --property Type=notify --property NotifyAccess=all podman --runtime $RUNTIME run -d --name $c --cgroups no-conmon \
	--sdnotify container -v /opt/client:/client bb sh -c 'sleep 2; echo ready; echo READY=1 | /client unixgram $NOTIFY_SOCKET; exec sleep 1000'; echo $?
podman logs $c; active $c.service active; [ "$(systemctl show -P MainPID $c.service)" = "$(podman inspect $c --format '{{.State.ConmonPid}}')" ] && echo conmon
podman rm -f -t 0 $c >/dev/null; wait_for active $c.service failed && systemctl show -P ExecMainStatus $c.service`},
}

// TestPodmanSystemd has a real systemd keep podman's scopes and start its health checks.
func TestPodmanSystemd(t *testing.T) {
	needVM(t)
	need.Promised(t, need.Newer, "`make engines` runs it") // not for what it needs, but for the minutes that it takes
	podmanUnderSystemd(t, podmanSystemdSteps)
}

func podmanUnderSystemd(t *testing.T, steps []step) {
	t.Helper()
	needPrograms(t, "podman", "conmon", "runc", "busybox")
	for _, p := range []string{"unshare", "nsenter", "losetup"} {
		need.Program(t, p, "util-linux")
	}
	dir := scratch(t)
	s := startSystemd(t, dir)
	root := filepath.Join(dir, "root")
	for _, name := range []string{"podman", "conmon", "runc", binary(t, "govmm-run")} {
		installWithLibraries(t, root, name)
	}
	copyClient(t, filepath.Join(root, "opt"))
	shell(t, dir, "mkdir -p root/etc/containers; mv "+busyboxImage(t, dir)+" shared/bb.tar; ln -s /opt/podman root/usr/bin/podman")
	policy := `{"default": [{"type": "insecureAcceptAnything"}]}`
	for name, text := range map[string]string{"containers.conf": podmanSystemdConf, "storage.conf": podmanSystemdStorage, "policy.json": policy} {
		if err := os.WriteFile(filepath.Join(root, "etc/containers", name), []byte(strings.ReplaceAll(text, "DIR", s.dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var engines []*engine
	for _, runtime := range []string{"runc", "govmm-run"} {
		e := &engine{runtime: runtime, dir: dir, prelude: podmanSystemdPrelude}
		// KillMode: conmon is in the cgroup of whoever called podman, and outlives a step.
		e.enter = append(s.enter(), "systemd-run", "--property=KillMode=process", "--quiet", "--pipe", "--wait", "--collect", "--working-directory="+s.dir, "--setenv=RUNTIME="+runtime)
		engines = append(engines, e)
	}
	if out, err := engines[0].run("podman import bb.tar bb"); err != nil || !hexID.MatchString(out) {
		t.Fatalf("podman import: %s%v", out, err)
	}
	t.Cleanup(func() {
		if out, err := engines[0].run("podman rm -fa -t 0; umount " + s.dir + "/graph/overlay 2>/dev/null; true"); err != nil {
			t.Errorf("clean up: %s%v", out, err)
		}
	})
	compareSteps(t, engines[0], engines[1], steps)
}

// installWithLibraries copies a program to /opt of a root of the same Debian, and the libraries that this misses.
func installWithLibraries(t *testing.T, root, name string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	shell(t, root, `cp `+path+` opt; { ldd `+path+` 2>/dev/null || true; } | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | while read -r lib; do
	[ -e ".$lib" ] || { mkdir -p ".${lib%/*}"; cp "$lib" ".$lib"; }; done`)
}
