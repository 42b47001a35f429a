package hostfs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// iovMax is UIO_MAXIOV: more segments than this are refused by the kernel.
const iovMax = 1024

// readResult reads from a handle, straight into where the transport wants the bytes.
type readResult struct {
	fs   *FS
	h    *handle
	off  int64
	size int
}

// Read checks a read; the bytes are moved when the transport asks for them.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return nil, code
	}
	if in.Offset > math.MaxInt64 {
		fs.putHandle(h)
		return nil, fuse.EINVAL
	}
	return &readResult{fs: fs, h: h, off: int64(in.Offset), size: int(in.Size)}, fuse.OK
}

// Size is how many bytes were asked for.
func (r *readResult) Size() int { return r.size }

// Done releases the handle.
func (r *readResult) Done() { r.fs.putHandle(r.h) }

// Bytes reads into buf.
func (r *readResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, code := r.Readv([][]byte{buf[:min(len(buf), r.size)]})
	return buf[:n], code
}

// Readv reads into dst, which may be guest memory. It returns less than the room only at the end of the file.
func (r *readResult) Readv(dst [][]byte) (int, fuse.Status) {
	total := 0
	for len(dst) > 0 {
		part := dst[:min(len(dst), iovMax)]
		dst = dst[len(part):]
		want := size(part)
		if want == 0 {
			continue
		}
		n, err := retry(func() (int, error) { return unix.Preadv(r.h.fd, part, r.off+int64(total)) })
		if err != nil {
			if total > 0 {
				return total, fuse.OK
			}
			return 0, status(err)
		}
		total += n
		if n < want {
			break
		}
	}
	return total, fuse.OK
}

func size(iov [][]byte) int {
	n := 0
	for _, b := range iov {
		n += len(b)
	}
	return n
}

// Write is Writev with one segment.
func (fs *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return fs.Writev(cancel, in, [][]byte{data})
}

// Writev writes data, which may be guest memory.
//
// O_APPEND is taken from the request, not from open: it can be changed with fcntl, and pages of a shared mapping (WRITE_CACHE)
// are written back through any handle, at their own offset. The host appends atomically, so that a log which several VMs and the
// host write keeps whole lines.
func (fs *FS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.putHandle(h)
	if !h.writable {
		return 0, fuse.EBADF
	}
	length := size(data)
	if in.Offset > math.MaxInt64-uint64(length) {
		return 0, fuse.EINVAL
	}
	flags := 0
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		flags = unix.RWF_APPEND
	}
	written := 0
	code = fs.killing(&in.InHeader, h.fd, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0, func() (err error) {
		written, err = writeAll(h.fd, data, int64(in.Offset), flags)
		return err
	})
	return uint32(written), code
}

// writeAll writes all segments. An error after some bytes is not reported: the next write meets it again.
func writeAll(fd int, data [][]byte, off int64, flags int) (int, error) {
	total := 0
	for len(data) > 0 {
		part := data[:min(len(data), iovMax)]
		n, err := retry(func() (int, error) { return unix.Pwritev2(fd, part, off+int64(total), flags) })
		if err != nil {
			if total > 0 {
				return total, nil
			}
			return 0, err
		}
		total += n
		if n < size(part) {
			if n == 0 {
				break
			}
			data = skip(data, n)
			continue
		}
		data = data[len(part):]
	}
	return total, nil
}

// skip returns iov without its first n bytes.
func skip(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	rest := append([][]byte(nil), iov...)
	if len(rest) > 0 {
		rest[0] = rest[0][n:]
	}
	return rest
}

// Lseek finds data and holes. Other seeks never leave the guest.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE || in.Offset > math.MaxInt64 {
		return fuse.EINVAL
	}
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// Fallocate changes the allocation of a file, in every mode that the host's file system has.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h, code := fs.useFile(in.Fh, in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.putHandle(h)
	if !h.writable {
		return fuse.EBADF
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return fuse.Status(unix.EFBIG)
	}
	// The request does not say whether set-id bits must go; the superuser is the one who may keep them.
	return fs.killing(&in.InHeader, h.fd, in.Uid != 0, func() error {
		_, err := retry(func() (int, error) {
			return 0, unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
		})
		return err
	})
}

// copyMost bounds one copy, so that a large one can be interrupted between requests.
const copyMost = 64 << 20

// CopyFileRange copies within one export on the host, shared extents and all.
func (fs *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, code := fs.useFile(in.FhIn, in.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.putHandle(from)
	to, code := fs.useFile(in.FhOut, in.NodeIdOut)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.putHandle(to)
	switch {
	case from.node.exp != to.node.exp:
		return 0, fuse.EXDEV
	case !to.writable:
		return 0, fuse.EBADF
	case in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0:
		return 0, fuse.EINVAL
	}
	length := int(min(in.Len, copyMost))
	copied := 0
	code = fs.killing(&in.InHeader, to.fd, in.Uid != 0, func() (err error) {
		offIn, offOut := int64(in.OffIn), int64(in.OffOut)
		copied, err = retry(func() (int, error) {
			return unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, length, 0)
		})
		return err
	})
	return uint32(max(copied, 0)), code
}

// Ioctl answers ENOTTY: a file on virtio-fs has none.
func (fs *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
