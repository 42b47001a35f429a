package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openScratch returns the scratch disk's image: an unnamed sparse file that
// is gone with the last process that has it open, or the kept one.
func openScratch(cache string, keep bool, mib int64) (*os.File, error) {
	if keep {
		return openKept(cache, mib)
	}
	f, err := os.OpenFile(cache, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scratch disk in %s: %w", cache, err)
	}
	if err := format(f, mib); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openKept(cache string, mib int64) (*os.File, error) {
	path := filepath.Join(cache, "scratch.img")
	f, err := lockFile(path, true)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: used by another test host: leave out --keep-scratch", path)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() == 0 {
		err = format(f, mib)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// format makes an empty ext4 file system. Nothing is written that a sparse
// file reads as zeros anyway.
func format(f *os.File, mib int64) error {
	if err := f.Truncate(mib << 20); err != nil {
		return err
	}
	cmd := exec.Command(mkfsTool.path(), "-q", "-F", "-m", "0", "-L", "scratch",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return nil
}
