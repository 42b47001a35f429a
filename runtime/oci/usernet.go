package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/virtio/net/user"
)

// UserNetwork says whether the annotation gives the container a network in user mode, and which ports of the host's lead to it.
func UserNetwork(spec *specs.Spec) (publish []user.Publish, ok bool, err error) {
	text, ok := spec.Annotations[AnnotationNetwork]
	if !ok {
		return nil, false, nil
	}
	if publish, err = user.ParseNetwork(withCommas(text)); err != nil {
		return nil, false, fmt.Errorf("annotation %s: %w", AnnotationNetwork, err)
	}
	return publish, true, nil
}

const hostResolvConf = "/etc/resolv.conf"

// AddResolvConf gives a checked config with a network in user mode the file that names its name server, made in dir, unless the config
// brings one: engines mount theirs.
func AddResolvConf(spec *specs.Spec, dir string) error {
	if _, ok, _ := UserNetwork(spec); !ok {
		return nil
	}
	if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == hostResolvConf || m.Destination == "/etc" }) {
		return nil
	}
	path := filepath.Join(dir, "resolv.conf")
	_, search := user.ReadResolvConf(hostResolvConf)
	if err := os.WriteFile(path, []byte(user.ResolvConf(search)), 0o644); err != nil {
		return err
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: hostResolvConf, Type: "bind", Source: path, Options: []string{"bind", "nosuid", "noexec", "nodev"}})
	return nil
}
