package packaging

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/testhost/need"
)

// refusal is how govmm-run answers --network host. It needs no KVM: where it comes through an engine, the snippet is at work.
const refusal = "govmm-run create failed: linux.namespaces: no network namespace: a micro-VM cannot share the host's"

// needEngine ends the test where the programs of an engine are missing: scripts/engines installs them.
func needEngine(t *testing.T, programs ...string) {
	t.Helper()
	needBuilt(t)
	need.Root(t)
	for _, name := range append(programs, "busybox") {
		if _, err := exec.LookPath(name); err != nil {
			need.Lacking(t, need.Engines, "%v", err)
		}
	}
}

// installed returns a folder on this machine's disk with the snippets for the programs in bin/, and a tar of a root file system.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"podman.conf", "docker.json", "containerd-v2.toml", "containerd-v3.toml"} {
		write(t, filepath.Join(dir, name), strings.ReplaceAll(read(t, name), "@BINDIR@", absolute(t, "../bin")))
	}
	run(t, nil, "sh", "-c", `mkdir -p "$0/root/bin" && cp "$(command -v busybox)" "$0/root/bin/busybox" && tar -C "$0/root" -cf "$0/bb.tar" .`, dir)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// shell runs a script in a folder, and returns what it prints on both streams, whatever its status.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return fmt.Sprintf("%s%v\n", out, err)
}

// want checks that a text has all parts.
func want(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: no %q in:\n%s", what, part, got)
		}
	}
}

// daemon starts a program, waits until ready succeeds, and ends it with the test.
func daemon(t *testing.T, dir, ready, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.WaitDelay = time.Second // children may hold the streams
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.Bytes()[max(0, log.Len()-8<<10):])
		}
	})
	for end := time.Now().Add(time.Minute); exec.Command("sh", "-c", ready).Run() != nil; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is not ready", name)
		}
	}
}

// TestPodmanSnippet has the drop-in where podman looks for it, in a mount namespace of the test's own.
func TestPodmanSnippet(t *testing.T) {
	needEngine(t, "podman", "conmon", "unshare")
	dir := installed(t)
	podman := "podman --storage-driver vfs --root $PWD/graph --runroot $PWD/run --tmpdir $PWD/tmp --events-backend file --cgroup-manager cgroupfs"
	script := `mkdir -p etc/containers.conf.d /etc/containers && cp -a /etc/containers/. etc/ && cp podman.conf etc/containers.conf.d/govmm.conf
mount --bind etc /etc/containers
` + podman + ` --runtime govmm-run info --format '{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}} {{.Host.OCIRuntime.Version}}'
` + podman + ` info --format 'default: {{.Host.OCIRuntime.Name}}'
run="` + podman + ` --runtime govmm-run run --rm --ulimit nofile=1000:1000 --log-driver k8s-file --network host"
$run --rootfs $PWD/root /bin/busybox true
$run --cgroups disabled --rootfs $PWD/root /bin/busybox true`
	// The PID namespace ends podman's own clean-up with the script.
	out := shell(t, dir, "exec unshare --mount --pid --fork --mount-proc sh -c '"+strings.ReplaceAll(script, "'", `'\''`)+"'")
	want(t, "podman", out, "govmm-run "+absolute(t, "../bin/govmm-run")+" govmm-run version ", "default: ")
	if strings.Contains(out, "default: govmm-run") {
		t.Error("the drop-in made govmm-run the default")
	}
	// With the runtime's name among those with a JSON log, podman prints the error alone.
	if got := strings.Count(out, "Error: OCI runtime error: govmm-run: "+refusal); got != 2 {
		t.Errorf("podman let govmm-run speak %d times, not twice:\n%s", got, out)
	}
}

// TestDockerSnippet has the snippet in a daemon's configuration.
func TestDockerSnippet(t *testing.T) {
	needEngine(t, "docker", "dockerd", "containerd")
	dir := installed(t)
	own := `{"data-root": "DIR/data", "exec-root": "DIR/exec", "pidfile": "DIR/pid", "hosts": ["unix://DIR/s"],
  "iptables": false, "ip6tables": false, "bridge": "none", "storage-driver": "vfs",`
	t.Cleanup(func() { _ = exec.Command("umount", filepath.Join(dir, "exec/netns/default")).Run() }) // the daemon leaves it
	write(t, filepath.Join(dir, "daemon.json"), strings.ReplaceAll(own, "DIR", dir)+strings.TrimPrefix(read(t, filepath.Join(dir, "docker.json")), "{"))
	docker := "docker -H unix://" + dir + "/s"
	daemon(t, dir, docker+" version", "dockerd", "--config-file", filepath.Join(dir, "daemon.json"))
	out := shell(t, dir, docker+` info --format '{{json .Runtimes}} default: {{.DefaultRuntime}}'
`+docker+` import bb.tar bb && `+docker+` run --rm --runtime govmm-run --network host bb /bin/busybox true`)
	want(t, "docker", out, `"govmm-run":{"path":"`+absolute(t, "../bin/govmm-run")+`"`, "default: runc",
		// Docker's name of the host's network namespace is a path.
		"OCI runtime create failed: govmm-run create failed: linux.namespaces: the network namespace "+dir+"/exec/netns/default is the host's")
}

// TestContainerdSnippet appends the snippet to a config.toml like Debian's.
func TestContainerdSnippet(t *testing.T) {
	needEngine(t, "containerd", "ctr")
	dir := installed(t)
	const conf = `version = 2
root = "%[1]s/data"
state = "%[1]s/state"
[grpc]
address = "%[1]s/s"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/bb:latest"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
`
	write(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(conf, dir)+read(t, filepath.Join(dir, "containerd-v2.toml")))
	containerd(t, dir, "containerd", "")
}

// TestContainerd2Snippet imports the snippet as containerd 2.3 does by itself.
func TestContainerd2Snippet(t *testing.T) {
	need.Promised(t, need.Newer, "`make engines` builds it")
	t.Setenv("PATH", os.Getenv("GOVMM_NEWER")+":"+os.Getenv("PATH"))
	needEngine(t, "containerd", "ctr", "crictl")
	dir := installed(t)
	const conf = `version = 3
root = "%[1]s/data"
state = "%[1]s/state"
imports = ["%[1]s/conf.d/*.toml"]
[grpc]
address = "%[1]s/s"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/library/bb:latest"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
`
	write(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(conf, dir))
	write(t, filepath.Join(dir, "conf.d/govmm.toml"), read(t, filepath.Join(dir, "containerd-v3.toml")))
	containerd(t, dir, "containerd", "crictl")
}

// containerd looks at what a containerd makes of dir's config.toml, starts it, and has crictl, if it is given, make a pod.
func containerd(t *testing.T, dir, program, crictl string) {
	dump := strings.ReplaceAll(run(t, nil, program, "-c", filepath.Join(dir, "config.toml"), "config", "dump"), "'", `"`)
	want(t, "config dump", dump, "containerd.runtimes.govmm-run]", `BinaryName = "`+absolute(t, "../bin/govmm-run")+`"`,
		`pod_annotations = ["io.govmm.*"]`, "containerd.runtimes.runc]", `default_runtime_name = "runc"`)
	ctr := "ctr -a " + dir + "/s"
	daemon(t, dir, ctr+" version", program, "-c", filepath.Join(dir, "config.toml"))
	for _, line := range strings.Split(run(t, nil, "sh", "-c", ctr+" plugins ls"), "\n") {
		if f := strings.Fields(line); len(f) == 4 && (f[1] == "cri" || strings.HasPrefix(f[0], "io.containerd.cri.")) && f[3] != "ok" {
			t.Errorf("containerd does not load its CRI: %s", line)
		}
	}
	if crictl == "" {
		return
	}
	write(t, filepath.Join(dir, "pod.json"), `{"metadata": {"name": "p", "namespace": "default", "uid": "u"},
  "linux": {"security_context": {"namespace_options": {"network": 2, "pid": 1}}}}`)
	out := shell(t, dir, image+ctr+" -n k8s.io images import image.tar && "+crictl+" -r unix://"+dir+"/s runp -r govmm-run pod.json")
	want(t, "crictl", out, refusal)
}

// image makes an OCI image of bb.tar, for engines that import no plain tar.
const image = `set -e
layer=$(sha256sum bb.tar | cut -d' ' -f1) && mkdir -p image && cp bb.tar image/layer.tar
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/busybox"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >image/config.json
printf '[{"Config":"config.json","RepoTags":["docker.io/library/bb:latest"],"Layers":["layer.tar"]}]' >image/manifest.json
tar -C image -cf image.tar manifest.json config.json layer.tar
`
