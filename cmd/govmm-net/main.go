// govmm-net is the user-mode network of one guest: a process that govmm and govmm-run carry along and start, with a socket over which frames
// come and go. It makes ordinary connections, needs no privileges and gives up those that it has.
package main

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/frames"
	"github.com/govmm/govmm/virtio/net/user"
	"github.com/govmm/govmm/virtio/net/user/netstack"
)

const (
	// softMemory is from how much memory on, in bytes, the garbage collector does more.
	softMemory = 96 << 20
	// sendTime is how long a frame waits for the guest to take others, before it is lost. TCP's senders are better off waiting.
	sendTime = 200 * time.Millisecond
)

func main() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = os.WriteFile("/proc/self/comm", []byte(user.ProgramName), 0)
	debug.SetMemoryLimit(softMemory)
	socket, err := frames.New(user.SocketFD, user.ProgramName)
	if err == nil {
		_ = unix.Close(user.SocketFD)
		err = run(socket)
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(user.ProgramName + ": " + err.Error() + "\n")
		os.Exit(1)
	}
}

// run serves the network until the other end of the socket is gone.
func run(socket *frames.Queue) error {
	buf := make([]byte, net.MaxFrame)
	receive := func() ([]byte, error) {
		n, err := socket.Receive(context.Background(), [][]byte{buf}, func() {})
		if err == nil && n == 0 || errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		return buf[:n], err
	}
	message, err := receive()
	if err != nil {
		return err
	}
	var sending sync.Mutex
	n, err := start(message, func(buffers [][]byte) error {
		sending.Lock()
		defer sending.Unlock()
		return socket.SendWithin(sendTime, buffers)
	})
	answer := user.Ready
	if err != nil {
		answer = err.Error()
	}
	if err := errors.Join(err, socket.Send([][]byte{[]byte(answer)})); err != nil {
		return err
	}
	defer n.Close()
	for {
		frame, err := receive()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		n.Deliver(frame)
	}
}

// start makes the network that a message describes, and gives up all privileges when the ports are open.
func start(message []byte, send func([][]byte) error) (*netstack.Network, error) {
	var cfg user.Config
	if err := cfg.Unmarshal(message); err != nil {
		return nil, err
	}
	n, err := netstack.New(cfg, send)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(n.Listen(), dropPrivileges()); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// nobody is the user and the group that own no file.
const nobody = 65534

// dropPrivileges takes root's identity, if it is that, and all capabilities away from every thread, for good.
func dropPrivileges() error {
	if os.Geteuid() == 0 {
		// A user namespace need not have it.
		_ = errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	return dropCapabilities()
}
