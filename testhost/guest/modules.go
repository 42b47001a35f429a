package guest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleLists reads the two parts of ModuleList.
func moduleLists() (needed, later []string, err error) {
	b, err := os.ReadFile(ModuleList)
	if err != nil {
		return nil, nil, err
	}
	first, second, _ := strings.Cut(string(b), "\n\n")
	return strings.Fields(first), strings.Fields(second), nil
}

func loadModules(names []string) error {
	files, err := openModules(names)
	if err != nil {
		return err
	}
	return insertModules(files)
}

// openModules opens modules of the initramfs and unlinks them: the kernel
// frees their memory when they are closed.
func openModules(names []string) ([]*os.File, error) {
	var files []*os.File
	for _, n := range names {
		f, err := os.Open(ModuleDir + "/" + n)
		if err != nil {
			return nil, err
		}
		_ = os.Remove(f.Name())
		files = append(files, f)
	}
	return files, nil
}

func insertModules(files []*os.File) error {
	var errs []error
	for _, f := range files {
		err := unix.FinitModule(int(f.Fd()), "", 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("insert module %s: %w", f.Name(), err))
		}
		f.Close()
	}
	return errors.Join(errs...)
}
