package hostfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// notPOSIX are the checks of posixtest that no file system can pass.
var notPOSIX = map[string]string{
	"FcntlFlockLocksFile": "wants two POSIX locks of one process to conflict",
}

// TestPOSIX runs go-fuse's collection of POSIX checks over a real mount.
func TestPOSIX(t *testing.T) {
	_, guest := mounted(t)
	for name, run := range posixtest.All {
		if reason := notPOSIX[name]; reason != "" {
			t.Logf("without %s, which %s", name, reason)
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(guest, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, dir)
		})
	}
}
