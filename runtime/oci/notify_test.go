package oci

import (
	"net"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestNotifySocket(t *testing.T) {
	spec := Example()
	mounts := len(spec.Mounts)
	for _, none := range []string{"", "@abstract", "/etc/passwd"} {
		if AddNotifySocket(spec, none) {
			t.Errorf("%q is said to be added", none)
		}
	}
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
	if !AddNotifySocket(spec, path) {
		t.Error("not added")
	}
	if m := spec.Mounts[mounts]; !isBind(m) || m.Source != path || m.Destination != notifyPath {
		t.Errorf("mount %+v", m)
	}
	if !slices.Contains(spec.Process.Env, "NOTIFY_SOCKET="+notifyPath) {
		t.Errorf("environment %q", spec.Process.Env)
	}
}

func TestBoundNotifySocket(t *testing.T) {
	bind := func(target string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: "/source"}
	}
	tmpfs := func(target string) specs.Mount { return specs.Mount{Destination: target, Type: "tmpfs"} }
	for _, c := range []struct {
		name   string
		env    []string
		mounts []specs.Mount
		mount  int // -1: none
	}{
		{"in a bound directory", []string{"NOTIFY_SOCKET=/run/notify/s"}, []specs.Mount{tmpfs("/run"), bind("/run/notify/")}, 1},
		{"the last value counts", []string{"NOTIFY_SOCKET=/else", "NOTIFY_SOCKET=/run/notify/s", "A=b"}, []specs.Mount{bind("/run/notify")}, 0},
		{"the last mount counts", []string{"NOTIFY_SOCKET=/a//s"}, []specs.Mount{bind("/a"), bind("/a"), bind("/a/b")}, 1},
		{"covered by what is not bound", []string{"NOTIFY_SOCKET=/a/s"}, []specs.Mount{bind("/a"), tmpfs("/a")}, -1},
		{"bound itself", []string{"NOTIFY_SOCKET=/a/s"}, []specs.Mount{bind("/a"), bind("/a/s")}, -1},
		{"deeper", []string{"NOTIFY_SOCKET=/a/b/s"}, []specs.Mount{bind("/a")}, -1},
		{"another variable", []string{"MY_NOTIFY_SOCKET=/a/s"}, []specs.Mount{bind("/a")}, -1},
		{"abstract", []string{"NOTIFY_SOCKET=@/a/s"}, []specs.Mount{bind("/a")}, -1},
		{"the root", []string{"NOTIFY_SOCKET=/"}, []specs.Mount{bind("/")}, -1},
		{"empty", []string{"NOTIFY_SOCKET="}, []specs.Mount{bind("/a")}, -1},
		{"dots", []string{"NOTIFY_SOCKET=/a/.."}, []specs.Mount{bind("/a"), bind("/")}, -1},
	} {
		mount, name, ok := BoundNotifySocket(&specs.Spec{Process: &specs.Process{Env: c.env}, Mounts: c.mounts})
		if ok != (c.mount >= 0) || ok && (mount != c.mount || name != "s") {
			t.Errorf("%s: mount %d, %q, %v, want %d", c.name, mount, name, ok, c.mount)
		}
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
