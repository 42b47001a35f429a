package fs

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/govmm/govmm/virtio"
)

// Sizes in bytes.
const (
	headerSize = 40 // struct fuse_in_header
	ioInSize   = 40 // struct fuse_read_in, struct fuse_write_in
	initInSize = 64 // struct fuse_init_in, at most
	forgetSize = 16 // struct fuse_forget_one
	replySize  = 16 // struct fuse_out_header

	// maxArguments bounds what is copied of a request that is no WRITE: names, xattr values (64 KiB), lists of nodes.
	maxArguments = 128 << 10
	// replyRoom holds each reply that has no payload of a length which the guest chose, the longest link included.
	replyRoom = 8192
	// minTransfer is the least bound of what one request moves, whatever INIT negotiated.
	minTransfer = 128 << 10
	// smallTransfer is how much is moved in the queue's goroutine: some 10 µs of copying.
	smallTransfer = 64 << 10
	// maxPooled bounds the buffers that are kept for reuse.
	maxPooled = 64 << 10
)

const (
	errInvalid     = syscall.EINVAL
	errIO          = syscall.EIO
	errUnknown     = syscall.ENOSYS
	errInterrupted = syscall.EINTR
)

// pollHackName is a name in the root directory that go-fuse makes up an answer for, pollHackNode its node: a trick for
// mounts by the same process, which would show in the guest.
const (
	pollHackName = ".go-fuse-epoll-hack"
	pollHackNode = ^uint64(0)
	rootNode     = 1
)

// request is one request on its way. It owns its chain until deliver.
type request struct {
	queue *virtio.Queue
	chain *virtio.Chain

	// Of struct fuse_in_header.
	length, opcode uint32
	unique, node   uint64
	extensions     int // bytes

	op    operation
	class class
	in    [][]byte // a private copy, but for the data of a WRITE
	out   [][]byte // where the reply goes: private, but for the data of a READ
	room  uint64   // the chain's device-writable bytes
	reply int      // bytes of the reply, in out
	errno syscall.Errno
	wrong string // what the driver did wrong, for the log

	cancelled    atomic.Bool // interrupted
	done         atomic.Bool // the server has answered
	interrupting bool        // guarded by Device.mu: a goroutine sees to it that the server hears of it

	input, output []byte    // the private memory
	inVec         [1][]byte // what in is, as a rule
	outVec        [1][]byte
}

var requests = sync.Pool{New: func() any {
	return &request{input: make([]byte, 1024), output: make([]byte, replyRoom)}
}}

// free gives the request's memory back.
func (r *request) free() {
	if r.interrupting || cap(r.input) > maxPooled || cap(r.output) > maxPooled {
		return // somebody may still look at it, or it is too much to keep
	}
	*r = request{input: r.input[:cap(r.input)], output: r.output[:cap(r.output)]}
	requests.Put(r)
}

// refuse has the request answered with an error, without the server. why, unless empty, goes to the log.
func (r *request) refuse(errno syscall.Errno, why string) {
	r.errno, r.wrong = errno, why
	r.class = cheap
}

// fetch copies a request out of guest memory, once, and checks it.
func (d *Device) fetch(q *virtio.Queue, c *virtio.Chain) *request {
	r := requests.Get().(*request)
	r.queue, r.chain, r.room = q, c, c.WritableLen()
	n := c.ReadHeader(r.input[:headerSize+ioInSize])
	if n < headerSize {
		r.refuse(errIO, "a request without a header")
		r.op.quiet = true // nobody knows whose the reply would be
		return r
	}
	le := binary.LittleEndian
	r.length, r.opcode = le.Uint32(r.input), le.Uint32(r.input[4:])
	r.unique, r.node = le.Uint64(r.input[8:]), le.Uint64(r.input[16:])
	r.extensions = 8 * int(le.Uint16(r.input[36:]))
	r.op = lookup(r.opcode)
	r.class = r.op.class
	total := c.ReadableLen()
	switch {
	case !r.op.known:
		r.refuse(errUnknown, "")
	case uint64(r.length) != total:
		r.refuse(errIO, "a request with a wrong length")
	case r.length < uint32(headerSize+r.op.in):
		r.refuse(errIO, "a request without its arguments")
	case !r.op.quiet && r.opcode != opInterrupt && r.room < replySize:
		r.refuse(errIO, "a request without room for a reply")
	case r.opcode == opWrite:
		r.in = append([][]byte{r.input[:n]}, virtio.Skip(c.Readable(), n)...)
		r.checkWrite()
	case total > maxArguments:
		r.refuse(syscall.E2BIG, "a request with arguments of unusual length")
	default:
		r.copyArguments(n, int(total))
		r.check()
	}
	return r
}

// copyArguments fetches the rest of a request, of which n bytes are there: they are not fetched again.
func (r *request) copyArguments(n, total int) {
	n = min(n, total)
	if cap(r.input) < total {
		r.input = append(make([]byte, 0, total), r.input[:n]...)
	}
	r.input = r.input[:total]
	if total > n {
		virtio.CopyFrom(r.input[n:], virtio.Skip(r.chain.Readable(), n))
	}
	r.inVec[0] = r.input
	r.in = r.inVec[:]
}

// transfer returns the size field of a READ, READDIR or WRITE.
func (r *request) transfer() uint64 {
	return uint64(binary.LittleEndian.Uint32(r.input[headerSize+16:]))
}

func (r *request) checkWrite() {
	data := uint64(r.length) - headerSize - ioInSize
	switch {
	case r.extensions != 0 || r.transfer() != data:
		r.refuse(errInvalid, "a WRITE with a wrong length")
	case data > smallTransfer:
		r.class = slow
	}
}

// check looks at what comes after the header, by opcode. It makes sure that go-fuse finds what it takes for granted.
func (r *request) check() {
	payload := r.input[headerSize+r.op.in:]
	if r.extensions > len(payload) || r.extensions > 0 && !r.op.ext {
		r.refuse(errIO, "a request with wrong extensions")
		return
	}
	payload = payload[:len(payload)-r.extensions]
	if r.op.names > 0 {
		r.checkNames(payload)
	}
	switch r.opcode {
	case opSetXAttr:
		r.class = small // the rest depends on what was negotiated
	case opInit:
		r.checkInit()
	case opBatchForget:
		if uint64(binary.LittleEndian.Uint32(r.input[headerSize:]))*forgetSize != uint64(len(payload)) {
			r.refuse(errInvalid, "a BATCH_FORGET with a wrong count")
		}
	case opRead:
		if r.transfer() > smallTransfer {
			r.class = slow
		}
	}
	if r.node == pollHackNode && r.errno == 0 {
		r.refuse(syscall.ESTALE, "")
	}
}

// checkNames refuses what is not just the right number of zero-terminated strings.
func (r *request) checkNames(payload []byte) {
	for i := range r.op.names {
		name, rest, ok := bytes.Cut(payload, []byte{0})
		target := r.opcode == opSymlink && i == 1
		switch {
		case !ok || len(name) == 0:
			r.refuse(errInvalid, "a request without a name")
			return
		case r.op.paths && !target && bytes.IndexByte(name, '/') >= 0:
			r.refuse(errInvalid, "a name with a slash")
			return
		case r.op.paths && !target && r.node == rootNode && string(name) == pollHackName:
			r.refuse(syscall.ENOENT, "")
			return
		}
		payload = rest
	}
	if len(payload) > 0 {
		r.refuse(errInvalid, "a request with more than its names")
	}
}

// checkInit refuses versions that go-fuse does not speak, and would complain about on the standard logger.
func (r *request) checkInit() {
	major, minor := binary.LittleEndian.Uint32(r.input[headerSize:]), binary.LittleEndian.Uint32(r.input[headerSize+4:])
	if major != 7 || minor < 12 || len(r.input) > headerSize+initInSize {
		r.refuse(errIO, "an INIT of a version that is not 7.12 or later")
	}
}

// checkXAttr refuses a SETXATTR whose value has not the length that it says. The arguments are longer when
// FUSE_SETXATTR_EXT was negotiated.
func (r *request) checkXAttr(in int) {
	if len(r.input) < headerSize+in {
		r.refuse(errIO, "a SETXATTR without its arguments")
		return
	}
	name, value, ok := bytes.Cut(r.input[headerSize+in:], []byte{0})
	if !ok || len(name) == 0 || uint64(len(value)) != uint64(binary.LittleEndian.Uint32(r.input[headerSize:])) {
		r.refuse(errInvalid, "a SETXATTR with a wrong length")
	}
}

// prepareOutput makes room for the reply. Data of a READ goes straight to guest memory, which only the host's kernel
// writes to; all else is made in private memory, where the server can rely on what it wrote.
func (r *request) prepareOutput(limit uint64) {
	payload := uint64(0)
	switch r.opcode {
	case opRead, opReadDir, opReadDirPlus:
		payload = r.transfer()
	case opGetXAttr, opListXAttr:
		payload = uint64(binary.LittleEndian.Uint32(r.input[headerSize:]))
	}
	switch {
	case payload > limit || payload > 0 && payload+replySize > r.room:
		r.refuse(errInvalid, "a request for more than it has room for")
		return
	case r.opcode == opRead:
		r.out = append([][]byte{r.output[:replySize]}, virtio.Skip(r.chain.Writable(), replySize)...)
		return
	case payload > 0 && uint64(len(r.output)) < replyRoom+payload:
		r.output = make([]byte, replyRoom+payload)
	}
	r.outVec[0] = r.output
	r.out = r.outVec[:]
}

// deliver copies the reply to the guest's buffers and returns its length.
func (r *request) deliver(d *Device) uint32 {
	if r.wrong != "" {
		d.complain(r.wrong, "opcode", r.opcode, "length", r.length, "room", r.room)
	}
	switch {
	case r.op.quiet:
		return 0
	case r.errno == 0 && r.opcode == opInterrupt && (r.reply == 0 || r.room < replySize):
		return 0
	case r.errno == 0 && (r.reply < replySize || uint64(r.reply) > r.room ||
		binary.LittleEndian.Uint32(r.output) != uint32(r.reply)):
		d.complain("a reply that does not fit", "opcode", r.opcode, "length", r.reply, "room", r.room)
		r.errno = errIO
	}
	if r.room < replySize {
		return 0
	}
	n := r.reply
	if r.errno != 0 {
		le := binary.LittleEndian
		le.PutUint32(r.output, replySize)
		le.PutUint32(r.output[4:], uint32(-int32(r.errno)))
		le.PutUint64(r.output[8:], r.unique)
		n = replySize
	}
	private := n
	if r.opcode == opRead {
		private = replySize // the rest is there already
	}
	virtio.CopyTo(r.chain.Writable(), r.output[:private])
	return uint32(n)
}
