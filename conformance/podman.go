package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// podmanSystem are podman's own tests, those that need no network and are about the runtime.
var podmanSystem = &suite{
	name:    "podman-system",
	version: "4.3.1-2",
	about:   "podman's system tests, from Debian's source package: the files about the runtime, without a network, on an image of Debian's busybox in place of the Alpine that podman's CI downloads. What they judge by seconds is judged on a machine whose clock counts instructions, one a nanosecond.",
	prepare: preparePodman,
	units: func(files string) ([]string, error) {
		return batsUnits(filepath.Join(files, podmanTests), podmanFiles, 4)
	},
	setup: setupPodman,
	run: func(w *workplace, unit string) ([]Assertion, string, error) {
		return runBats(w, w.path(podmanTests), unit, podmanEnv(w)...)
	},
	timed:    true, // podman pause, stop, run --timeout, and a terminal that lasts ten seconds
	packages: append([][2]string{{"podman", "podman"}, {"conmon", "conmon"}, {"socat", "socat"}, {"buildah", "buildah"}}, batsPackages...),
}

const (
	podmanTests = "libpod/test/system"
	podmanImage = "quay.io/libpod/testimage:20220615" // the name that the tests ask for
)

// podmanFiles stand in the order in which they say most about a runtime for their time: a run may have to end before they are done.
// 195, which the issue names, came with a later podman.
var podmanFiles = strings.Fields("075-exec 055-rm 130-kill 080-pause 450-interactive 280-update 220-healthcheck 050-stop 030-run 160-volumes 065-cp 170-run-userns")

func preparePodman(dir string) error {
	if err := fetchSource("libpod", filepath.Join(dir, "libpod")); err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := busyboxRoot(root); err != nil {
		return err
	}
	if err := likeAlpine(root); err != nil {
		return err
	}
	home := filepath.Join(root, "home/podman")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"testimage-id": "20220615\n",
		"pause":        "#!/bin/sh\necho Confirmed: testimage pause invoked as $0\nwhile :; do\n    sleep 0.1\ndone\n",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	// The time that the tests look for.
	if err := run(home, "touch", "--date=@1600000000", "testimage-id"); err != nil {
		return err
	}
	return pack(root, filepath.Join(dir, "testimage.tar"))
}

// likeAlpine adds what the tests look for in an Alpine and Debian's busybox does not bring.
func likeAlpine(root string) error {
	if err := os.Mkdir(filepath.Join(root, "srv"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/proc/mounts", filepath.Join(root, "etc/mtab")); err != nil {
		return err
	}
	// A script would not do: its shell has an environment of its own.
	path, err := exec.LookPath("printenv")
	if err != nil {
		return err
	}
	libs, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	for _, lib := range sharedObject.FindAllString(string(libs), -1) {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(lib)), 0o755); err != nil {
			return err
		}
		if err := copyFile(lib, filepath.Join(root, lib)); err != nil {
			return err
		}
	}
	return copyFile(path, filepath.Join(root, "bin/printenv"))
}

// sharedObject is a path that ldd names.
var sharedObject = regexp.MustCompile(`/\S+`)

const podmanConf = `[engine]
cgroup_manager="cgroupfs"
events_logger="file"
tmp_dir="%[1]s/tmp"
volume_path="%[1]s/volumes"
conmon_path=["%[1]s/bin/conmon"]
runtime="%[2]s"
runtime_supports_json=["runc","crun","govmm-run"]
[engine.runtimes]
%[2]s=["%[3]s"]
[containers]
log_driver="k8s-file"
default_ulimits=[]
netns="none"
`

// podmanEnv keeps podman to the workplace.
func podmanEnv(w *workplace) []string {
	return []string{
		"PODMAN=" + w.path("bin/podman"), "CONTAINERS_CONF=" + w.path("containers.conf"), "CONTAINERS_STORAGE_CONF=" + w.path("storage.conf"),
		"PATH=" + w.path("bin") + ":" + os.Getenv("PATH"),
	}
}

func setupPodman(w *workplace) error {
	if err := run("", "cp", "-a", filepath.Join(w.files, "libpod/test"), w.path("test")); err != nil {
		return err
	}
	if err := os.Mkdir(w.path("libpod"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(w.path("test"), w.path("libpod/test")); err != nil {
		return err
	}
	if err := os.Mkdir(w.path("bin"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"podman", "conmon"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := copyFile(path, w.path("bin", name)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"containers.conf": fmt.Sprintf(podmanConf, w.dir, w.rt.Name, w.rt.path),
		"storage.conf":    fmt.Sprintf("[storage]\ndriver=\"overlay\"\ngraphroot=\"%[1]s/graph\"\nrunroot=\"%[1]s/run\"\n", w.dir),
	} {
		if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	_, errOut, ended, err := w.command(unitTime, podmanEnv(w), w.path("bin/podman"), "import", "--change", "WORKDIR /home/podman",
		"--change", `CMD ["/bin/echo", "This container is intended for podman CI testing"]`, filepath.Join(w.files, "testimage.tar"), podmanImage)
	if err == nil && ended != "" {
		err = fmt.Errorf("podman import: %s: %s", ended, lastLine(errOut))
	}
	return err
}
