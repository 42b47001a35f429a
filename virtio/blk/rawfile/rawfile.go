// Package rawfile is the storage of a virtio block device in a raw image file or a host's block device. It is apart from
// package blk because that one opens no files.
package rawfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is an open raw image or block device. It implements blk.Storage, blk.Flusher, blk.Discarder, blk.ZeroWriter and
// blk.VectorStorage.
type File struct {
	file      *os.File
	size      int64
	blockSize uint32
}

// Open opens the regular file or block device at path, and locks it against other VMs: any number may read it, or one
// write. The lock is an open file description lock, which ends with Close or the process.
func Open(path string, readOnly bool) (*File, error) {
	flags, lock := os.O_RDWR, int16(unix.F_WRLCK)
	if readOnly {
		flags, lock = os.O_RDONLY, unix.F_RDLCK
	}
	// A FIFO must not block us, before we can see what it is.
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("disk image: %w", err)
	}
	r, err := New(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("disk image %s: %w", path, err)
	}
	if err := r.lock(lock); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("disk image %s: %w", path, err)
	}
	return r, nil
}

// New takes an open regular file or block device, without a lock. Close closes it.
func New(f *os.File) (*File, error) {
	r := &File{file: f}
	if err := r.inspect(); err != nil {
		return nil, err
	}
	return r, nil
}

// control calls f with the descriptor and returns its error, or that of a closed file.
func (r *File) control(f func(fd int) error) error {
	c, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (r *File) inspect() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		r.size, r.blockSize = info.Size(), 512
		return nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		if r.size, err = r.file.Seek(0, io.SeekEnd); err != nil {
			return err
		}
		return r.control(func(fd int) error {
			n, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
			r.blockSize = uint32(n)
			return os.NewSyscallError("BLKSSZGET", err)
		})
	default:
		return errors.New("neither a regular file nor a block device")
	}
}

func (r *File) lock(kind int16) error {
	return r.control(func(fd int) error {
		err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return errors.New("in use by another VM: share it read-only or make a copy")
		}
		return nil // a file system without locks is no reason not to run
	})
}

// Close closes the file and ends the lock.
func (r *File) Close() error { return r.file.Close() }

// Size implements blk.Storage.
func (r *File) Size() int64 { return r.size }

// BlockSize returns the logical block size in bytes.
func (r *File) BlockSize() uint32 { return r.blockSize }

// ReadAt implements io.ReaderAt.
func (r *File) ReadAt(p []byte, off int64) (int, error) { return r.file.ReadAt(p, off) }

// WriteAt implements io.WriterAt.
func (r *File) WriteAt(p []byte, off int64) (int, error) { return r.file.WriteAt(p, off) }

// Flush implements blk.Flusher. The size of the file never changes, so its data is all that matters.
func (r *File) Flush() error {
	return r.control(func(fd int) error {
		return os.NewSyscallError("fdatasync", retry(func() error { return unix.Fdatasync(fd) }))
	})
}

// retry repeats f while it is interrupted: the Go runtime preempts threads with signals.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// ReadVector implements blk.VectorStorage.
func (r *File) ReadVector(buffers [][]byte, off int64) error {
	return r.control(func(fd int) error { return transfer("preadv", unix.Preadv, fd, buffers, off) })
}

// WriteVector implements blk.VectorStorage.
func (r *File) WriteVector(buffers [][]byte, off int64) error {
	return r.control(func(fd int) error { return transfer("pwritev", unix.Pwritev, fd, buffers, off) })
}

// maxVector is the kernel's IOV_MAX.
const maxVector = 1024

func transfer(name string, call func(int, [][]byte, int64) (int, error), fd int, buffers [][]byte, off int64) error {
	for len(buffers) > 0 {
		n, err := call(fd, buffers[:min(len(buffers), maxVector)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError(name, err)
		case n == 0:
			return fmt.Errorf("%s at %d: %w", name, off, io.ErrUnexpectedEOF)
		}
		off += int64(n)
		buffers = skip(buffers, n)
	}
	return nil
}

// skip returns what is left of buffers after n bytes; the slice is new where one of its elements has to change.
func skip(buffers [][]byte, n int) [][]byte {
	for len(buffers) > 0 && n >= len(buffers[0]) {
		n -= len(buffers[0])
		buffers = buffers[1:]
	}
	if n > 0 {
		buffers = append([][]byte(nil), buffers...)
		buffers[0] = buffers[0][n:]
	}
	return buffers
}

// Discard implements blk.Discarder by punching a hole. Storage that cannot keeps the range: a discard is advice.
func (r *File) Discard(off, n int64) error {
	err := r.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// WriteZeroes implements blk.ZeroWriter. Where neither a hole nor a zeroed range is to be had it writes.
func (r *File) WriteZeroes(off, n int64, unmap bool) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE
	}
	err := r.fallocate(mode|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeroes := make([]byte, min(n, 1<<20))
	for n > 0 {
		k, err := r.file.WriteAt(zeroes[:min(n, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		off += int64(k)
		n -= int64(k)
	}
	return nil
}

func (r *File) fallocate(mode uint32, off, n int64) error {
	return r.control(func(fd int) error {
		return os.NewSyscallError("fallocate", retry(func() error { return unix.Fallocate(fd, mode, off, n) }))
	})
}
