package fs

// FUSE opcodes (include/uapi/linux/fuse.h) that get a treatment of their own.
const (
	opLookup      = 1
	opForget      = 2
	opSymlink     = 6
	opReadlink    = 5
	opRead        = 15
	opWrite       = 16
	opSetXAttr    = 21
	opGetXAttr    = 22
	opListXAttr   = 23
	opInit        = 26
	opReadDir     = 28
	opSetLkW      = 33
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
	opReadDirPlus = 44
	opSyncFS      = 50
	opTmpfile     = 51
)

// class says where a request is carried out.
type class uint8

const (
	cheap class = iota // at once: it does not wait for a disk, as a rule
	small              // at once when it is alone in the queue: it may wait for a disk, for a short time
	slow               // in a goroutine of its own
	waits              // the same, and it may wait for another request
)

// operation is what this layer knows about an opcode. The zero value is one that is not served: those that virtio-fs has
// no use for (IOCTL, POLL, NOTIFY_REPLY, BMAP, the DAX window's), whose code in the server is not exposed, and those that
// are not known.
type operation struct {
	known bool
	class class
	in    int  // size of the arguments' struct, in bytes
	names int  // zero-terminated strings after it
	paths bool // they are names of directory entries: without a slash
	ext   bool // extensions may follow (struct fuse_ext_header)
	quiet bool // there is no reply
}

// operations is indexed by opcode. The sizes are those of FUSE 7.28 and later; a test compares them with go-fuse's.
var operations = [...]operation{
	1:  {known: true, names: 1, paths: true},                                  // LOOKUP
	2:  {known: true, in: 8, quiet: true},                                     // FORGET
	3:  {known: true, in: 16},                                                 // GETATTR
	4:  {known: true, in: 88, class: small},                                   // SETATTR
	5:  {known: true},                                                         // READLINK
	6:  {known: true, names: 2, paths: true, ext: true, class: small},         // SYMLINK
	8:  {known: true, in: 16, names: 1, paths: true, ext: true, class: small}, // MKNOD
	9:  {known: true, in: 8, names: 1, paths: true, ext: true, class: small},  // MKDIR
	10: {known: true, names: 1, paths: true, class: small},                    // UNLINK
	11: {known: true, names: 1, paths: true, class: small},                    // RMDIR
	12: {known: true, in: 8, names: 2, paths: true, class: small},             // RENAME
	13: {known: true, in: 8, names: 1, paths: true, class: small},             // LINK
	14: {known: true, in: 8, class: small},                                    // OPEN
	15: {known: true, in: 40, class: small},                                   // READ
	16: {known: true, in: 40, class: small},                                   // WRITE
	17: {known: true},                                                         // STATFS
	18: {known: true, in: 24, class: small},                                   // RELEASE
	20: {known: true, in: 16, class: slow},                                    // FSYNC
	21: {known: true, in: 8, class: small},                                    // SETXATTR
	22: {known: true, in: 8, names: 1},                                        // GETXATTR
	23: {known: true, in: 8},                                                  // LISTXATTR
	24: {known: true, names: 1, class: small},                                 // REMOVEXATTR
	25: {known: true, in: 24, class: small},                                   // FLUSH
	26: {known: true, in: 16},                                                 // INIT
	27: {known: true, in: 8},                                                  // OPENDIR
	28: {known: true, in: 40, class: small},                                   // READDIR
	29: {known: true, in: 24},                                                 // RELEASEDIR
	30: {known: true, in: 16, class: slow},                                    // FSYNCDIR
	31: {known: true, in: 48},                                                 // GETLK
	32: {known: true, in: 48},                                                 // SETLK
	33: {known: true, in: 48, class: waits},                                   // SETLKW
	34: {known: true, in: 8},                                                  // ACCESS
	35: {known: true, in: 16, names: 1, paths: true, ext: true, class: small}, // CREATE
	36: {known: true, in: 8},                                                  // INTERRUPT
	38: {known: true},                                                         // DESTROY
	42: {known: true, in: 8, quiet: true},                                     // BATCH_FORGET
	43: {known: true, in: 32, class: slow},                                    // FALLOCATE
	44: {known: true, in: 40, class: small},                                   // READDIRPLUS
	45: {known: true, in: 16, names: 2, paths: true, class: small},            // RENAME2
	46: {known: true, in: 24},                                                 // LSEEK
	47: {known: true, in: 56, class: slow},                                    // COPY_FILE_RANGE
	50: {known: true, in: 8, class: slow},                                     // SYNCFS
	51: {known: true, in: 16, names: 1, ext: true, class: small},              // TMPFILE
	52: {known: true, in: 24},                                                 // STATX
}

func lookup(opcode uint32) operation {
	if opcode >= uint32(len(operations)) {
		return operation{}
	}
	return operations[opcode]
}
