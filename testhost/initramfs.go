package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/guest"
)

// cpio writes an archive in the "newc" format (Documentation/driver-api/
// early-userspace/buffer-format.rst of Linux). The first error sticks.
type cpio struct {
	w   io.Writer
	n   int64 // bytes written
	ino int
	err error
}

func (c *cpio) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = err
}

func (c *cpio) pad() { c.write(make([]byte, -c.n&3)) }

// add appends one entry; mode holds the type bits too.
func (c *cpio) add(name string, mode, major, minor uint32, data []byte) {
	c.ino++
	name = strings.TrimPrefix(name, "/")
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.write([]byte(head))
	c.write([]byte(name + "\x00"))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpio) dir(name string)                 { c.add(name, unix.S_IFDIR|0o755, 0, 0, nil) }
func (c *cpio) file(name string, b []byte)      { c.add(name, unix.S_IFREG|0o755, 0, 0, b) }
func (c *cpio) char(name string, ma, mi uint32) { c.add(name, unix.S_IFCHR|0o600, ma, mi, nil) }
func (c *cpio) end() error                      { c.add("TRAILER!!!", 0, 0, 0, nil); return c.err }

// buildInitramfs returns an initramfs of this very program and the modules.
func buildInitramfs(k kernel) ([]byte, error) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if err := checkStatic(exe); err != nil {
		return nil, err
	}
	needed, err := moduleOrder(k, bootModules)
	if err != nil {
		return nil, err
	}
	later, err := moduleOrder(k, laterModules)
	if err != nil {
		return nil, err
	}
	later = slices.DeleteFunc(later, func(m string) bool { return slices.Contains(needed, m) })

	var buf bytes.Buffer
	c := &cpio{w: &buf}
	for _, d := range []string{"/dev", "/proc", "/sys", "/root", guest.ModuleDir} {
		c.dir(d)
	}
	// The kernel opens /dev/console for /init before anything is mounted.
	c.char("/dev/console", 5, 1)
	c.file(guest.InitPath, exe)
	for _, m := range slices.Concat(needed, later) {
		b, err := os.ReadFile(m)
		if err != nil {
			return nil, err
		}
		c.file(guest.ModuleDir+"/"+filepath.Base(m), b)
	}
	c.file(guest.ModuleList, []byte(baseNames(needed)+"\n"+baseNames(later)))
	c.file(guest.ModuleTree, []byte(k.moduleTree()))
	if err := c.end(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func baseNames(paths []string) string {
	var b strings.Builder
	for _, p := range paths {
		b.WriteString(filepath.Base(p) + "\n")
	}
	return b.String()
}

// checkStatic refuses an executable that needs a dynamic linker: it is the
// init of an initramfs without libraries.
func checkStatic(exe []byte) error {
	f, err := elf.NewFile(bytes.NewReader(exe))
	if err != nil {
		return fmt.Errorf("own executable: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("this program is linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	return nil
}
