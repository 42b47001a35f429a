// Package initramfs writes the archives that Linux unpacks as its first root
// file system: cpio in the "newc" format, see
// Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
//
// The output depends on the entries alone: no times, no inode numbers and no
// owners of this machine get into it.
package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// File types and the permission bits they are combined with in Entry.Mode, as
// in stat(2).
const (
	Directory = 0o040000
	Regular   = 0o100000
	Symlink   = 0o120000
	CharDev   = 0o020000
	BlockDev  = 0o060000
	FIFO      = 0o010000

	typeMask = 0o170000
)

// maxName is Linux's PATH_MAX: the kernel skips an entry with a longer name.
const maxName = 4096

// An Entry is one file of an archive.
type Entry struct {
	Name         string // relative and clean: "dev/console"
	Mode         uint32 // file type | permissions
	UID, GID     uint32
	Major, Minor uint32 // of a device node
	Data         []byte // contents of a regular file, target of a symlink
}

// Dir is a directory with the given permissions, owned by root.
func Dir(name string, perm uint32) Entry { return Entry{Name: name, Mode: Directory | perm} }

// File is a regular file with the given permissions, owned by root.
func File(name string, perm uint32, data []byte) Entry {
	return Entry{Name: name, Mode: Regular | perm, Data: data}
}

// Char is a character device node, owned by root.
func Char(name string, perm, major, minor uint32) Entry {
	return Entry{Name: name, Mode: CharDev | perm, Major: major, Minor: minor}
}

// ForInit is the least root file system in which init can run as PID 1: init
// itself, /dev with a console (which the kernel opens before init mounts
// anything), /proc and /sys.
func ForInit(init []byte) []Entry {
	return []Entry{
		Dir("dev", 0o755),
		Char("dev/console", 0o600, 5, 1),
		Dir("proc", 0o555),
		Dir("sys", 0o555),
		File("init", 0o755, init),
	}
}

// Write writes an archive of entries, in their order, to w. An entry's
// directory must come before it, because the kernel creates none by itself.
func Write(w io.Writer, entries []Entry) error {
	bw := bufio.NewWriter(w)
	dirs := map[string]bool{".": true}
	seen := map[string]bool{}
	for i, e := range entries {
		if err := e.check(); err != nil {
			return err
		}
		if seen[e.Name] {
			return fmt.Errorf("initramfs: %s: twice", e.Name)
		}
		if !dirs[path.Dir(e.Name)] {
			return fmt.Errorf("initramfs: %s: its directory is missing", e.Name)
		}
		seen[e.Name] = true
		dirs[e.Name] = e.Mode&typeMask == Directory
		if err := writeEntry(bw, uint32(i+1), e); err != nil {
			return err
		}
	}
	if err := writeEntry(bw, 0, Entry{Name: "TRAILER!!!"}); err != nil {
		return err
	}
	return bw.Flush()
}

// check refuses what the format cannot hold or the kernel would skip.
func (e Entry) check() error {
	switch {
	case e.Name == "" || e.Name == "." || e.Name == "TRAILER!!!" || path.IsAbs(e.Name) ||
		path.Clean(e.Name) != e.Name || e.Name == ".." || strings.HasPrefix(e.Name, "../") ||
		strings.ContainsRune(e.Name, 0):
		return fmt.Errorf("initramfs: %q: not a clean relative name", e.Name)
	case len(e.Name)+1 > maxName:
		return fmt.Errorf("initramfs: name of %d bytes is too long", len(e.Name))
	case uint64(len(e.Data)) > math.MaxUint32:
		return fmt.Errorf("initramfs: %s: %d bytes are too many", e.Name, len(e.Data))
	}
	typ := e.Mode & typeMask
	switch typ {
	case Regular, Directory, CharDev, BlockDev, FIFO:
	case Symlink:
		if len(e.Data) == 0 || len(e.Data) >= maxName {
			return fmt.Errorf("initramfs: %s: symlink target of %d bytes", e.Name, len(e.Data))
		}
	default:
		return fmt.Errorf("initramfs: %s: unknown file type %#o", e.Name, e.Mode)
	}
	if e.Mode&^(typeMask|0o7777) != 0 {
		return fmt.Errorf("initramfs: %s: unknown mode bits %#o", e.Name, e.Mode)
	}
	if len(e.Data) > 0 && typ != Regular && typ != Symlink {
		return fmt.Errorf("initramfs: %s: data in a file without contents", e.Name)
	}
	return nil
}

// headerSize is the size of the newc header; with an even number of words it
// decides how the name behind it is padded.
const headerSize = 110

func writeEntry(w io.Writer, ino uint32, e Entry) error {
	nlink := uint32(1)
	if e.Mode&typeMask == Directory {
		nlink = 2
	}
	_, err := fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00%s",
		ino, e.Mode, e.UID, e.GID, nlink, 0 /* mtime */, len(e.Data),
		0, 0, e.Major, e.Minor, len(e.Name)+1, 0 /* check */, e.Name, padding(headerSize+len(e.Name)+1))
	if err != nil {
		return err
	}
	if _, err := w.Write(e.Data); err != nil {
		return err
	}
	_, err = io.WriteString(w, padding(len(e.Data)))
	return err
}

// padding fills n bytes up to a multiple of four.
func padding(n int) string { return "\x00\x00\x00"[:-n&3] }
