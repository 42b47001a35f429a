package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// addRegistry starts a registry, where there is one, with the image RUNTIME/bb:1 for each engine. Scripts find it at REGISTRY.
func addRegistry(t *testing.T, engines ...*engine) {
	t.Helper()
	if !need.Required(need.Newer) {
		return
	}
	crane := ""
	for _, dir := range filepath.SplitList(os.Getenv("GOVMM_NEWER")) {
		if path := filepath.Join(dir, "crane"); crane == "" && exec.Command("test", "-x", path).Run() == nil {
			crane = path
		}
	}
	if crane == "" {
		t.Fatal("GOVMM_NEWER has no crane: go run ./testhost/engines builds it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := scratch(t)
	ready := func() bool { return exec.Command(crane, "catalog", "--insecure", address).Run() == nil }
	startDaemon(t, dir, nil, ready, crane, "registry", "serve", "--address", address)
	image := archive(t, dir)
	for _, e := range engines {
		e.env = append(e.env, "REGISTRY="+address+"/"+e.runtime)
		if out, err := exec.Command(crane, "push", "--insecure", image, address+"/"+e.runtime+"/bb:1").CombinedOutput(); err != nil {
			t.Fatalf("crane push: %v: %s", err, out)
		}
	}
}
