package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// notifyPath is where a container finds the socket that the caller's NOTIFY_SOCKET names (sd_notify(3)), as under runc.
const notifyPath = "/run/notify/notify.sock"

const notifyVariable = "NOTIFY_SOCKET="

// AddNotifySocket gives a checked config the socket of a service manager that waits for the container to be ready. One
// that has no file to mount, in the abstract space or gone, is left out. When there is one, its mount is the last.
func AddNotifySocket(spec *specs.Spec, socket string) (added bool) {
	if st, err := os.Stat(socket); err != nil || !filepath.IsAbs(socket) || st.Mode().Type() != os.ModeSocket {
		return false
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: notifyPath, Type: "bind", Source: socket, Options: []string{"bind", "nosuid", "noexec", "nodev"},
	})
	spec.Process.Env = append(spec.Process.Env, notifyVariable+notifyPath)
	return true
}

// BoundNotifySocket returns where NOTIFY_SOCKET of the process's own environment points to, if that is directly in a bound directory: the
// number of its mount and the name in it. podman --sdnotify=container binds a directory in which conmon has made its socket.
func BoundNotifySocket(spec *specs.Spec) (mount int, name string, ok bool) {
	socket := ""
	for _, e := range spec.Process.Env {
		if value, found := strings.CutPrefix(e, notifyVariable); found {
			socket = value
		}
	}
	if !filepath.IsAbs(socket) {
		return 0, "", false
	}
	dir, name := filepath.Split(filepath.Clean(socket))
	for i, m := range slices.Backward(spec.Mounts) {
		switch target := filepath.Join("/", m.Destination); {
		case target == filepath.Clean(dir) && name != "":
			return i, name, isBind(m)
		case target == filepath.Clean(socket):
			return 0, "", false // something else stands there
		}
	}
	return 0, "", false
}

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
