package guestkernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// elfMagic is spelled out because debug/elf would cost every start of a program
// that imports this package the initialisation of a dozen others.
const elfMagic = "\x7fELF"

// Attach writes to out the program exe with the kernel vmlinux, the archive
// initrd and the program net behind it; all five are paths. Assets that exe already
// carries are replaced. The file appears under its name only when complete,
// with the mode of exe; out may be exe itself.
//
// Do not strip the result: strip drops what no section describes.
func Attach(exe, out, vmlinux, initrd, net string) error {
	program, err := openProgram(exe)
	if err != nil {
		return err
	}
	defer program.file.Close()

	tmp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()

	if err := writeAll(tmp, program, vmlinux, initrd, net); err != nil {
		return fmt.Errorf("attach a guest kernel to %s: %w", exe, err)
	}
	if err := tmp.Chmod(program.mode); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), out)
}

// A program is an executable file without its assets, if it had any.
type program struct {
	file *os.File
	size int64
	mode os.FileMode
}

func openProgram(path string) (*program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	p := &program{file: f, size: fi.Size(), mode: fi.Mode().Perm()}
	switch t, err := readTrailer(f); {
	case err == nil:
		p.size = int64(t.exeSize)
	case !errors.Is(err, ErrNone):
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	head := make([]byte, len(elfMagic))
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != elfMagic {
		f.Close()
		return nil, fmt.Errorf("%s is not an ELF program", path)
	}
	return p, nil
}

func writeAll(out *os.File, p *program, vmlinux, initrd, net string) error {
	t := trailer{exeSize: uint64(p.size)}
	if _, err := io.Copy(out, io.NewSectionReader(p.file, 0, p.size)); err != nil {
		return err
	}
	var err error
	if t.kernelOff, t.kernelSize, t.kernelSum, err = appendFile(out, vmlinux, kernelAlign, checkKernel); err != nil {
		return err
	}
	if t.initrdOff, t.initrdSize, t.initrdSum, err = appendFile(out, initrd, initrdAlign, checkInitrd); err != nil {
		return err
	}
	if t.netOff, t.netSize, t.netSum, err = appendFile(out, net, netAlign, checkNet); err != nil {
		return err
	}
	if _, err := out.Write(t.encode()); err != nil {
		return err
	}
	fi, err := out.Stat()
	if err != nil {
		return err
	}
	return t.check(fi.Size())
}

// appendFile copies the file at path behind out, at a multiple of align.
func appendFile(out *os.File, path string, align uint64, check func(path string, head []byte) error) (off, size, sum uint64, err error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, 0, 0, err
	}
	defer in.Close()
	head := make([]byte, 8)
	n, _ := io.ReadFull(in, head)
	if err := check(path, head[:n]); err != nil {
		return 0, 0, 0, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return 0, 0, 0, err
	}
	end, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, 0, err
	}
	off = alignUp(uint64(end), align)
	// The gap becomes a hole where the file system knows holes.
	if _, err := out.Seek(int64(off), io.SeekStart); err != nil {
		return 0, 0, 0, err
	}
	h := newSum()
	copied, err := io.Copy(io.MultiWriter(out, h), in)
	return off, uint64(copied), h.Sum64(), err
}

func checkKernel(path string, head []byte) error {
	if !bytes.HasPrefix(head, []byte(elfMagic)) {
		return fmt.Errorf("%s is not an ELF kernel (vmlinux)", path)
	}
	return nil
}

func checkNet(path string, head []byte) error {
	if !bytes.HasPrefix(head, []byte(elfMagic)) {
		return fmt.Errorf("%s is not an ELF program (govmm-net)", path)
	}
	return nil
}

func checkInitrd(path string, head []byte) error {
	if !bytes.HasPrefix(head, []byte("070701")) {
		return fmt.Errorf("%s is not an uncompressed initramfs (newc cpio)", path)
	}
	return nil
}
