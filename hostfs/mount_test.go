package hostfs

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// newFS serves dir as export "c/0".
func newFS(t testing.TB, dir string, change ...func(*Config)) *FS {
	t.Helper()
	cfg := Config{Exports: []Export{exportOf(t, "c/0", dir)}, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	for _, c := range change {
		c(&cfg)
	}
	fs, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return fs
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func exportOf(t testing.TB, name, path string) Export {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return Export{Name: name, Dir: f}
}

// mount serves fs through this machine's own FUSE, as the guest's kernel would see it, and returns the mount point.
func mount(t testing.TB, fs *FS) string {
	t.Helper()
	need.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		need.Lacking(t, need.FUSE, "FUSE: %v", err)
	}
	mnt := t.TempDir()
	opts := fs.Options()
	opts.DirectMountStrict = true
	opts.DirectMountFlags = unix.MS_NODEV
	opts.AllowOther = true
	opts.Options = append(opts.Options, "default_permissions")
	srv, err := fuse.NewServer(fs, mnt, opts)
	if err != nil {
		need.Lacking(t, need.FUSE, "FUSE: %v", err)
	}
	go srv.Serve()
	if err := srv.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	})
	return mnt
}

// mounted makes a host directory, serves it, and returns both sides of it.
func mounted(t testing.TB, change ...func(*Config)) (host, guest string) {
	t.Helper()
	host = t.TempDir()
	for _, dir := range []string{host, filepath.Dir(host)} { // the latter for users that are not root
		check(t, os.Chmod(dir, 0o755))
	}
	return host, filepath.Join(mount(t, newFS(t, host, change...)), "c/0")
}
