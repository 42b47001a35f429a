package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The test binary is static, so it is its own helper inside containers: with GOVMM_E2E_GUEST set, it runs the tests named
// TestGuest..., which are skipped otherwise.
const guestEnv = "GOVMM_E2E_GUEST"

func inGuest(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(guestEnv)
	if dir == "" {
		t.Skip("part of another test: runs inside its container")
	}
	return dir
}

// copySelf copies the test binary to dir.
func copySelf(t *testing.T, dir string) { copyTo(t, filepath.Join(dir, "e2e.test")) }

// copyClient puts what busybox has not into a directory from which containers mount it as clientName.
func copyClient(t *testing.T, dir string) { copyTo(t, filepath.Join(dir, clientName)) }

func copyTo(t *testing.T, path string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// selfNative runs TestGuestFSX on this machine.
func selfNative(dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestGuestFSX$")
	cmd.Env = append(os.Environ(), guestEnv+"="+dir)
	return cmd
}
