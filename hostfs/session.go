package hostfs

import "github.com/hanwen/go-fuse/v2/fuse"

// NewSession ends the guest's session, if there was one, and returns the protocol server of the next. All that the guest held ends
// with its session, as it does for a process that exits: its open files are closed, its locks given up, its nodes forgotten. Node ids
// of the old session answer ESTALE. The caller has no request under way.
func (fs *FS) NewSession() *fuse.ProtocolServer {
	fs.mu.Lock()
	for _, h := range fs.handles {
		fs.dropHandle(h)
	}
	for _, n := range fs.nodes {
		n.nlookup = 0
		fs.dropUnused(n)
	}
	fs.mu.Unlock()
	return fuse.NewProtocolServer(fs, fs.Options())
}
