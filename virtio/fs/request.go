package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio"
)

// FUSE opcodes (include/uapi/linux/fuse.h) that this layer has to know.
const (
	opForget       = 2
	opWrite        = 16
	opFsync        = 20
	opInit         = 26
	opFsyncDir     = 30
	opSetLkW       = 33
	opInterrupt    = 36
	opDestroy      = 38
	opIoctl        = 39
	opPoll         = 40
	opNotifyReply  = 41
	opBatchForget  = 42
	opFallocate    = 43
	opCopyRange    = 47
	opSetupMapping = 48
	opRemoveMap    = 49
	opSyncFS       = 50
	opTmpfile      = 51
)

const (
	headerSize      = 40 // struct fuse_in_header
	writeInSize     = 40 // struct fuse_write_in
	interruptInSize = 8
	replySize       = 16 // struct fuse_out_header
	// maxCopy bounds what is copied of a request that is no WRITE: names, xattr values (64 KiB), lists of nodes.
	maxCopy = 256 << 10
)

const errIO = uint32(unix.EIO)

// header is struct fuse_in_header, as far as it matters here.
type header struct {
	length uint32
	opcode uint32
	unique uint64
}

type request struct {
	header header
	in     [][]byte // a private copy, but for the data of a WRITE
	errno  uint32   // not 0: refused without asking the server
}

// parse fetches a request from guest memory, once, and checks what surrounds it.
func (d *Device) parse(c *virtio.Chain) *request {
	head := make([]byte, headerSize+writeInSize)
	n := c.ReadHeader(head)
	r := &request{}
	if n < headerSize {
		r.errno = errIO
		return r
	}
	r.header = header{
		length: binary.LittleEndian.Uint32(head),
		opcode: binary.LittleEndian.Uint32(head[4:]),
		unique: binary.LittleEndian.Uint64(head[8:]),
	}
	total := c.ReadableLen()
	switch {
	case uint64(r.header.length) != total:
		r.errno = errIO
	case !served(r.header.opcode):
		r.errno = uint32(unix.ENOSYS)
	case r.header.opcode != opInit && !d.ready():
		r.errno = errIO
	case hasReply(r.header.opcode) && c.WritableLen() < replySize:
		r.errno = errIO
	case r.header.opcode == opWrite:
		if n < len(head) {
			r.errno = errIO
			break
		}
		r.in = append([][]byte{head}, virtio.Skip(c.Readable(), len(head))...)
	case total > maxCopy:
		r.errno = uint32(unix.E2BIG)
	default:
		all := make([]byte, total)
		copy(all, head[:min(n, len(all))])
		// The header is not fetched again: it could have changed since it was checked.
		if len(all) > n {
			virtio.CopyFrom(all[n:], virtio.Skip(c.Readable(), n))
		}
		r.in = [][]byte{all}
	}
	return r
}

// served says which opcodes reach the server. The others have no use on virtio-fs, and their code is not exposed.
func served(opcode uint32) bool {
	switch opcode {
	case opIoctl, opPoll, opNotifyReply, opSetupMapping, opRemoveMap:
		return false
	}
	return opcode >= 1 && opcode <= opTmpfile
}

// mayBlock says which requests leave the queue's goroutine: those that wait for others or for a disk.
func mayBlock(opcode uint32) bool {
	switch opcode {
	case opSetLkW, opFsync, opFsyncDir, opSyncFS, opFallocate, opCopyRange:
		return true
	}
	return false
}

func hasReply(opcode uint32) bool {
	return opcode != opForget && opcode != opBatchForget && opcode != opInterrupt
}

// refuse answers a request that does not reach the server.
func (r *request) refuse(c *virtio.Chain) uint32 {
	if !hasReply(r.header.opcode) {
		return 0
	}
	return r.reply(c, r.errno)
}

// reply writes struct fuse_out_header with an error alone, if there is room for it.
func (r *request) reply(c *virtio.Chain, errno uint32) uint32 {
	if c.WritableLen() < replySize {
		return 0
	}
	b := make([]byte, replySize)
	binary.LittleEndian.PutUint32(b, replySize)
	binary.LittleEndian.PutUint32(b[4:], -errno)
	binary.LittleEndian.PutUint64(b[8:], r.header.unique)
	return uint32(c.Write(b))
}

// interruptRequest is a FUSE_INTERRUPT of our own making.
func interruptRequest(unique uint64) []byte {
	b := make([]byte, headerSize+interruptInSize)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint32(b[4:], opInterrupt)
	binary.LittleEndian.PutUint64(b[headerSize:], unique)
	return b
}
