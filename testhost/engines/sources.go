package main

import "os/exec"

// source is a module with programs.
type source struct {
	module, version string
	packages        []string
	tags            string
	cgo             bool     // for programs that do not work without
	set             []string // variables of the link, NAME=VALUE
	edits           []edit
}

// edit is a command that makes a module's tree one that can be built from the module proxy alone.
type edit []string

func (e edit) command(dir string) *exec.Cmd {
	cmd := exec.Command(e[0], e[1:]...)
	cmd.Dir = dir
	return cmd
}

const withoutDrivers = "no_btrfs,no_devmapper,no_zfs"

var sources = []source{
	{
		// Its first process enters namespaces in C.
		module: "github.com/opencontainers/runc", version: "v1.5.1", packages: []string{"."}, tags: "seccomp", cgo: true,
	},
	{
		module: "github.com/containerd/containerd/v2", version: "v2.3.4", tags: withoutDrivers,
		packages: []string{"cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"},
	},
	{module: "sigs.k8s.io/cri-tools", version: "v1.37.0", packages: []string{"cmd/crictl"}},
	{
		module: "github.com/containerd/nerdctl/v2", version: "v2.2.1", packages: []string{"cmd/nerdctl"}, tags: withoutDrivers,
		set: []string{"github.com/containerd/nerdctl/v2/pkg/version.Version=v2.2.1"},
		// Its test helpers, in package helpers though no test, need a module that has never been published.
		edits: []edit{
			{"rm", "cmd/nerdctl/helpers/testing.go", "cmd/nerdctl/helpers/testing_linux.go"},
			{"sh", "-c", "mkdir -p mod/tigron && echo module github.com/containerd/nerdctl/mod/tigron >mod/tigron/go.mod"},
			{"go", "mod", "edit", "-replace=github.com/containerd/nerdctl/mod/tigron=./mod/tigron"},
		},
	},
	{
		// The engine of Docker 29.
		module: "github.com/moby/moby/v2", version: "v2.0.0-beta.24", packages: []string{"cmd/dockerd"}, tags: "exclude_graphdriver_btrfs," + withoutDrivers,
		set: []string{"github.com/moby/moby/v2/dockerversion.Version=29.9.2"},
	},
	{
		// It holds the host's side of published ports.
		module: "github.com/moby/moby/v2", version: "v2.0.0-beta.24", packages: []string{"cmd/docker-proxy"},
	},
	{
		// The newest whose own requirements the module proxy has.
		module: "github.com/docker/cli", version: "v29.9.2+incompatible", packages: []string{"cmd/docker"},
		set: []string{"github.com/docker/cli/cli/version.Version=29.9.2"},
		// Its module file has another name.
		edits: []edit{{"rm", "-r", "vendor"}, {"mv", "vendor.mod", "go.mod"}, {"mv", "vendor.sum", "go.sum"}},
	},
	{
		// Locks, `top` and the data base are C.
		module: "github.com/containers/podman/v5", version: "v5.8.2", packages: []string{"cmd/podman"}, cgo: true,
		tags: "containers_image_openpgp,exclude_graphdriver_btrfs,seccomp,systemd",
	},
	{
		// A registry, and what fills it.
		module: "github.com/google/go-containerregistry", version: "v0.22.1", packages: []string{"cmd/crane"},
	},
}
