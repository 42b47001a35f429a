package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// lock takes the cache's lock for one recipe and waits while another process
// has it.
func lock(cache, name string) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return func() { f.Close() }, nil
}

// sameBytes compares a fresh build with the cached one, if there is one.
func sameBytes(fresh, cached string) error {
	for _, name := range []string{"vmlinux", "config", "initrd.cpio"} {
		a, errA := os.ReadFile(filepath.Join(fresh, name))
		b, errB := os.ReadFile(filepath.Join(cached, name))
		if errors.Is(errB, fs.ErrNotExist) {
			continue
		}
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("not reproducible: %s differs from the cached build in %s", name, cached)
		}
	}
	return nil
}

// moveAcross is rename between file systems: still in one step for readers of
// the cache.
func moveAcross(from, to string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(to), "move-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.CopyFS(filepath.Join(tmp, "out"), os.DirFS(from)); err != nil {
		return err
	}
	err = os.Rename(filepath.Join(tmp, "out"), to)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // a forced build that gave the same bytes
	}
	return err
}

func numCPU() int { return runtime.NumCPU() }
