package hostfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPOSIX runs go-fuse's collection of POSIX checks over a real mount.
func TestPOSIX(t *testing.T) {
	_, guest := mounted(t)
	for name, run := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(guest, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, dir)
		})
	}
}
