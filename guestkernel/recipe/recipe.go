// Package recipe builds guest kernels from Debian's kernel source and keeps
// them in a cache. It runs at build time only: no program that starts virtual
// machines imports it.
package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/govmm/govmm/guestkernel/bare"
	"github.com/govmm/govmm/guestkernel/config"
)

// version is part of every cache key. Raise it when a change to this package
// changes the bytes of a kernel.
const version = "1"

// A Recipe says how one kernel is configured.
type Recipe struct {
	name      string
	fragments map[string][]byte
	initC     []byte // C source of an init to pack into an initramfs, or nil
	objects   int    // about how many lines make prints, for the progress
	lenient   bool   // take the kernel also if Kconfig did not follow every option
}

// Container is the kernel for containers.
func Container() (Recipe, error) {
	r := Recipe{name: "container", fragments: map[string][]byte{}, objects: 1950}
	names, err := fs.Glob(config.Container, "*.config")
	if err != nil {
		return r, err
	}
	for _, name := range names {
		if r.fragments[name], err = config.Container.ReadFile(name); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Bare is the untuned kernel and initramfs of package bare.
func Bare() (Recipe, error) {
	return Recipe{
		name:      "bare",
		fragments: map[string][]byte{"guest.config": bare.Config},
		initC:     bare.Init,
		objects:   1240,
		lenient:   true, // it stays as others measured it, with the options that Kconfig drops
	}, nil
}

// A Result names the files of a finished build, all inside Dir.
type Result struct {
	Dir     string
	Kernel  string // stripped ELF vmlinux
	Initrd  string // uncompressed newc archive; empty if the recipe has none
	Config  string // the complete .config
	Builtin string // modules.builtin
	Cached  bool   // nothing had to be built
}

func result(dir string, r Recipe) Result {
	res := Result{
		Dir:     dir,
		Kernel:  filepath.Join(dir, "vmlinux"),
		Config:  filepath.Join(dir, "config"),
		Builtin: filepath.Join(dir, "modules.builtin"),
	}
	if r.initC != nil {
		res.Initrd = filepath.Join(dir, "initrd.cpio")
	}
	return res
}

// CacheDir is where kernels are kept: govmm/guestkernel below
// $XDG_CACHE_HOME or ~/.cache.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w (set XDG_CACHE_HOME)", err)
	}
	return filepath.Join(base, "govmm", "guestkernel"), nil
}

// key hashes everything that the bytes of the kernel depend on.
func (r Recipe) key(tools toolchain) string {
	h := sha256.New()
	field := func(name string, value []byte) {
		fmt.Fprintf(h, "%s %d\n", name, len(value))
		h.Write(value)
	}
	field("recipe", []byte(version))
	field("name", []byte(r.name))
	for _, line := range tools {
		field("tool", []byte(line))
	}
	for _, name := range sortedKeys(r.fragments) {
		field(name, r.fragments[name])
	}
	field("init", r.initC)
	return hex.EncodeToString(h.Sum(nil))[:20]
}

// Lookup returns the kernel that the cache holds for r, without building
// anything; ok is false when there is none.
func Lookup(r Recipe) (res Result, ok bool, err error) {
	dir, err := CacheDir()
	if err != nil {
		return res, false, err
	}
	tools, missing := probe(r)
	if len(missing) > 0 {
		return res, false, nil
	}
	res = result(filepath.Join(dir, r.key(tools)), r)
	if _, err := os.Stat(res.Kernel); err != nil {
		return res, false, nil
	}
	res.Cached = true
	return res, true, nil
}

// An Options value says how to build, not what.
type Options struct {
	Log     io.Writer // what happens, for people
	Jobs    int       // processes at once; 0: one per CPU
	Verbose bool      // make's own output instead of a progress line
	Work    string    // build below this directory; default: in the cache
	Force   bool      // build even if the cache has it, and compare the bytes
}
