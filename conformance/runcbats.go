package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runcBats are runc's own tests: the files whose subject a runtime of micro-VMs can have. Left out are checkpoints, cgroup
// delegation and the cgroup's internals, user namespaces, sshfs, no_pivot and seccomp's notifications.
var runcBats = &suite{
	name:    "runc-bats",
	version: "1.1.5",
	about:   "runc's own bats files, from Debian's source package, those that can have a meaning for a micro-VM.",
	prepare: prepareRuncBats,
	units: func(files string) ([]string, error) {
		return batsUnits(filepath.Join(files, integration), runcFiles, 8)
	},
	setup: func(w *workplace) error {
		return run("", "cp", "-a", filepath.Join(w.files, "runc"), w.path("runc"))
	},
	run: func(w *workplace, unit string) ([]Assertion, string, error) {
		return runBats(w, w.path(integration), unit, "RUNC="+w.rt.path)
	},
	packages: batsPackages,
}

const integration = "runc/tests/integration"

var runcFiles = strings.Fields("create delete start start_detached start_hello state list kill run exec cwd tty ps pause events hooks " +
	"mask mounts mounts_recursive umask seccomp dev update root debug help version spec")

// prepareRuncBats fetches the files, and makes what their Makefile would and the images that they would download.
func prepareRuncBats(dir string) error {
	src := filepath.Join(dir, "runc")
	if err := fetchSource("runc", src); err != nil {
		return err
	}
	// The version of Debian's package is upstream's with a suffix.
	if _, err := buildModule("github.com/opencontainers/runc", "v1.1.5", filepath.Join(src, "contrib/cmd/recvtty"), "contrib/cmd/recvtty"); err != nil {
		return err
	}
	images := filepath.Join(dir, integration, "testdata")
	root, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := busyboxRoot(root); err != nil {
		return err
	}
	if err := pack(root, filepath.Join(images, "busybox.tar")); err != nil {
		return err
	}
	if err := debianTar(filepath.Join(images, "debian.tar")); err != nil {
		return err
	}
	script := "#!/bin/sh\n"
	for _, name := range []string{"busybox", "debian"} {
		script += fmt.Sprintf("echo %s_IMAGE=$(dirname \"$(readlink -f \"$0\")\")/testdata/%s.tar\n", strings.ToUpper(name), name)
	}
	return os.WriteFile(filepath.Join(dir, integration, "get-images.sh"), []byte(script), 0o755)
}
