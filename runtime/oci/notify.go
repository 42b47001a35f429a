package oci

import (
	"bytes"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// notifyPath is where a container finds the socket that the caller's NOTIFY_SOCKET names (sd_notify(3)), as under runc.
const notifyPath = "/run/notify/notify.sock"

// AddNotifySocket gives a checked config the socket of a service manager that waits for the container to be ready. One
// that has no file to mount, in the abstract space or gone, is left out.
func AddNotifySocket(spec *specs.Spec, socket string) {
	if st, err := os.Stat(socket); err != nil || !filepath.IsAbs(socket) || st.Mode().Type() != os.ModeSocket {
		return
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: notifyPath, Type: "bind", Source: socket, Options: []string{"bind", "nosuid", "noexec", "nodev"},
	})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+notifyPath)
}

// NotifyFilter returns what of a container's datagram may reach the socket mounted at target, if anything: all of it,
// but for a service manager, to which a container says that it is ready and nothing else. It must not name the
// service's main process, extend its time or hand it descriptors.
func NotifyFilter(target string) func([]byte) ([]byte, bool) {
	if target != notifyPath {
		return func(p []byte) ([]byte, bool) { return p, true }
	}
	return func(p []byte) ([]byte, bool) {
		for line := range bytes.Lines(p) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return append(bytes.TrimSuffix(line, []byte("\n")), '\n'), true
			}
		}
		return nil, false
	}
}
