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

// IsNotifySocket reports whether a socket's mount point is the one that AddNotifySocket takes.
func IsNotifySocket(target string) bool { return target == notifyPath }

// ReadyLine returns what of a container's datagram may reach a service manager, if anything: that it is ready. It must not
// name the service's main process, extend its time or hand it descriptors.
func ReadyLine(datagram []byte) (line string, ok bool) {
	for line := range bytes.Lines(datagram) {
		if bytes.HasPrefix(line, []byte("READY=")) {
			return string(append(bytes.TrimSuffix(line, []byte("\n")), '\n')), true
		}
	}
	return "", false
}
