package guest

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// A socket of the host that is bound into a container cannot work through virtio-fs: a socket is the kernel's, not its
// file's. The stage makes one of the guest's kernel in its place, and PID 1 relays to the host's (relay.go).

// openSockets mounts the file system in which the sockets are made, below the container's root: it goes with the rest
// of PID 1's tree, the sockets that are mounted from it stay.
func (b *builder) openSockets(scratch string) error {
	n := 0
	for i := range b.m.Mounts {
		if b.m.Mounts[i].Socket.Kind != 0 {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	if n > agent.MaxSockets {
		return failure(agent.Invalid, strconv.Itoa(n)+" mounts of sockets: at most "+strconv.Itoa(agent.MaxSockets)+" are possible")
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("sockets", scratch, "tmpfs", flags, "mode=755"); err != nil {
		return wrap("sockets", err)
	}
	r, err := openRoot(scratch)
	b.nodes = r.fd
	return err
}

// socket makes a listening socket and mounts its file at the mount's target.
func (b *builder) socket(m *agent.Mount) error {
	kind := unix.SOCK_STREAM
	switch m.Socket.Kind {
	case agent.StreamSocket:
	case agent.DatagramSocket:
		kind = unix.SOCK_DGRAM
	default:
		return failure(agent.Invalid, "unknown kind of socket")
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	name := strconv.Itoa(len(b.listen))
	b.listen = append(b.listen, fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fdPath(b.nodes) + "/" + name}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Fchownat(b.nodes, name, int(m.Socket.UID), int(m.Socket.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if err := unix.Fchmodat(b.nodes, name, m.Socket.Mode&0o7777, 0); err != nil {
		return os.NewSyscallError("fchmodat", err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return os.NewSyscallError("listen", err)
		}
	}
	tree, err := cloneTree(b.nodes, name, false)
	if err != nil {
		return err
	}
	return b.attach(m, tree)
}
