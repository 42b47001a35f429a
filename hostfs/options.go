package hostfs

import (
	"fmt"
	"log"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// MaxWrite is the largest READ or WRITE in bytes.
const MaxWrite = 1 << 20

// Options are the protocol options for a server in front of fs: what is negotiated at FUSE_INIT, and what happens to a panic.
func (fs *FS) Options() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite:      MaxWrite,
		MaxBackground: 64,
		EnableLocks:   true,
		EnableAcl:     true,
		DisableSplice: true,
		FsName:        "govmm",
		Name:          "govmm",
		Logger:        log.New(fs.log, "", 0),
		PanicHandler:  fs.reportPanic,
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_SUBMOUNTS | fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_SETXATTR_EXT | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
			fuse.CAP_INIT_EXT,
		// Passthrough would count one level of file system stacking against an overlay in the guest, for nothing.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_CACHE_SYMLINKS |
			fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT,
	}
}

// reportPanic turns our own bug, which a guest may have found before us, into EIO for that one request.
func (fs *FS) reportPanic(v any) fuse.Status {
	fs.log.once("panic", "the file server panicked: this is a bug of govmm", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return fuse.EIO
}
