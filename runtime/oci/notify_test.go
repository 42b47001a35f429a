package oci

import (
	"net"
	"path/filepath"
	"slices"
	"testing"
)

func TestNotifySocket(t *testing.T) {
	spec := Example()
	mounts := len(spec.Mounts)
	AddNotifySocket(spec, "")
	AddNotifySocket(spec, "@abstract")
	AddNotifySocket(spec, "/etc/passwd")
	path := filepath.Join(t.TempDir(), "notify")
	AddNotifySocket(spec, path)
	if len(spec.Mounts) != mounts {
		t.Errorf("mounts without a socket: %+v", spec.Mounts[mounts:])
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	AddNotifySocket(spec, path)
	if m := spec.Mounts[mounts]; !isBind(m) || m.Source != path || m.Destination != notifyPath {
		t.Errorf("mount %+v", m)
	}
	if !slices.Contains(spec.Process.Env, "NOTIFY_SOCKET="+notifyPath) {
		t.Errorf("environment %q", spec.Process.Env)
	}
}

func TestReadyLine(t *testing.T) {
	for in, want := range map[string]string{
		"READY=1":                   "READY=1\n",
		"MAINPID=1\nREADY=1\nX=2\n": "READY=1\n",
		"MAINPID=1\nFDSTORE=1":      "",
		"":                          "",
		"NOTREADY=1":                "",
	} {
		if got, ok := ReadyLine([]byte(in)); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", in, got, ok, want)
		}
	}
}
