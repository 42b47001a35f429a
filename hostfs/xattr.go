package hostfs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// xattrCalls are the four calls on the descriptor with a given number. An O_PATH descriptor has no fgetxattr, and before Linux 6.13
// extended attributes have no *at form, so the older way is an actor, whose working directory is /proc/self/fd.
type xattrCalls interface {
	get(a *actors, name, attr string, dest []byte) (int, error)
	list(a *actors, name string, dest []byte) (int, error)
	set(a *actors, c creds, name, attr string, data []byte, flags int) error
	remove(a *actors, name, attr string) error
}

// byDirectory calls relative to an actor's working directory.
type byDirectory struct{}

func (byDirectory) get(a *actors, name, attr string, dest []byte) (n int, err error) {
	err = a.do(a.self(), func() (err error) { n, err = unix.Getxattr(name, attr, dest); return err })
	return n, err
}

func (byDirectory) list(a *actors, name string, dest []byte) (n int, err error) {
	err = a.do(a.self(), func() (err error) { n, err = unix.Listxattr(name, dest); return err })
	return n, err
}

func (byDirectory) set(a *actors, c creds, name, attr string, data []byte, flags int) error {
	return a.do(c, func() error { return unix.Setxattr(name, attr, data, flags) })
}

func (byDirectory) remove(a *actors, name, attr string) error {
	return a.do(a.self(), func() error { return unix.Removexattr(name, attr) })
}

// byDescriptor has getxattrat and listxattrat (Linux 6.13), which need no actor. They are the calls that count: the guest's kernel
// asks for security.capability at each exec and for ACLs at each permission check.
type byDescriptor struct {
	byDirectory
	procfd int
}

func (b byDescriptor) get(_ *actors, name, attr string, dest []byte) (int, error) {
	return getxattrat(b.procfd, name, attr, dest)
}

func (b byDescriptor) list(_ *actors, name string, dest []byte) (int, error) {
	return listxattrat(b.procfd, name, dest)
}

// chooseXattrCalls asks the kernel once.
func chooseXattrCalls(procfd int) xattrCalls {
	if _, err := getxattrat(procfd, fdName(procfd), "user.hostfs", nil); err == unix.ENOSYS || err == unix.EPERM {
		return byDirectory{} // EPERM: an older seccomp filter
	}
	return byDescriptor{procfd: procfd}
}

// self is in nobody else's name.
func (a *actors) self() creds { return creds{uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid())} }

// checkAttr accepts the classes of attributes that are served. Others (security.selinux, security.ima, ...) belong to the host.
func checkAttr(attr string) fuse.Status {
	switch {
	case strings.HasPrefix(attr, "user."), strings.HasPrefix(attr, "trusted."),
		attr == "security.capability", attr == aclAccess, attr == aclDefault:
		if len(attr) > unix.NAME_MAX {
			return fuse.ERANGE
		}
		return fuse.OK
	}
	return fuse.ENOTSUP
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// GetXAttr reads an extended attribute, or only its size if dest is empty.
func (fs *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if checkAttr(attr) != fuse.OK {
		return 0, fuse.ENODATA
	}
	n, code := fs.use(h.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.put(n)
	if n.exp == nil {
		return 0, fuse.ENODATA
	}
	if h := fs.useOpen(n); h != nil { // as before each write to it
		defer fs.putHandle(h)
		size, err := unix.Fgetxattr(h.fd, attr, dest)
		return uint32(max(size, 0)), status(err)
	}
	size, err := fs.xattr.get(fs.actors, fdName(n.fd), attr, dest)
	return uint32(max(size, 0)), status(err)
}

// ListXAttr lists the names of the attributes that are served.
func (fs *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, code := fs.use(h.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.put(n)
	if n.exp == nil {
		return 0, fuse.OK
	}
	// The host's list may hold names that are left out, so dest's size says nothing about the room that it needs.
	buf := make([]byte, 4096)
	size, err := fs.xattr.list(fs.actors, fdName(n.fd), buf)
	if err == unix.ERANGE {
		buf = make([]byte, xattrListMax)
		size, err = fs.xattr.list(fs.actors, fdName(n.fd), buf)
	}
	if err != nil {
		return 0, status(err)
	}
	list := servedAttrs(buf[:size])
	if len(dest) == 0 {
		return uint32(len(list)), fuse.OK
	}
	if len(list) > len(dest) {
		return uint32(len(list)), fuse.ERANGE
	}
	return uint32(copy(dest, list)), fuse.OK
}

const xattrListMax = 64 << 10

func servedAttrs(list []byte) []byte {
	var out []byte
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if checkAttr(name) == fuse.OK {
			out = append(append(out, name...), 0)
		}
	}
	return out
}

// SetXAttr sets an extended attribute.
func (fs *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if code := checkAttr(attr); code != fuse.OK {
		return code
	}
	if uint64(in.Size) > uint64(len(data)) {
		return fuse.EINVAL
	}
	n, code := fs.useWritable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	c := fs.actors.self()
	if attr == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		// The caller is not in the file's group: as somebody who is not either, without CAP_FSETID, the host's kernel
		// clears the bit together with the change.
		if c, code = fs.credsOf(&in.InHeader); code != fuse.OK {
			return code
		}
		c.dropFSETID = true
	}
	return status(fs.xattr.set(fs.actors, c, fdName(n.fd), attr, data[:in.Size], int(in.Flags)))
}

// RemoveXAttr removes an extended attribute.
func (fs *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	if checkAttr(attr) != fuse.OK {
		return fuse.ENODATA
	}
	n, code := fs.useWritable(h.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(n)
	return status(fs.xattr.remove(fs.actors, fdName(n.fd), attr))
}
