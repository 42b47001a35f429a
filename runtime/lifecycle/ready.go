package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
)

// barrierTime is how long a service manager may take to read what it was told, as long as runc gives it.
const barrierTime = 30 * time.Second

// readiness is a started container's word to the service manager that NOTIFY_SOCKET names: that it is ready. As under runc it is
// start, or run, that waits for it and passes it on, with the process that is then the service's main one. A nil readiness is that of a
// container that nobody waits for.
type readiness struct {
	manager *net.UnixConn
	monitor *control.Conn
	pid     int
}

// watchReady begins to wait, before the container may say anything.
func (r *Runtime) watchReady(c *container.Container) *readiness {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	manager, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		r.Log.Debug("NOTIFY_SOCKET", "error", err)
		return nil
	}
	monitor, err := control.Dial(c.Dir())
	if err == nil {
		err = monitor.Send(control.Request{Op: control.OpReady})
	}
	if err != nil {
		r.Log.Debug("the monitor cannot be asked whether the container is ready", "error", err)
		manager.Close()
		return nil
	}
	return &readiness{manager: manager, monitor: monitor, pid: c.State.PID}
}

func (n *readiness) close() {
	if n != nil {
		n.monitor.Close()
		n.manager.Close()
	}
}

// wait waits until the container is ready and the service manager knows, or until the container has ended.
func (n *readiness) wait() error {
	if n == nil {
		return nil
	}
	defer n.close()
	said, err := n.pass()
	if err != nil || !said {
		return err
	}
	return n.barrier()
}

// pass passes the word on.
func (n *readiness) pass() (said bool, err error) {
	var reply control.Reply
	if err := n.monitor.Receive(&reply); err != nil || reply.Ready == "" {
		return false, nil // it has ended, or has no socket to say so
	}
	for _, word := range []string{reply.Ready, "MAINPID=" + strconv.Itoa(n.pid) + "\n"} {
		if _, err := n.manager.Write([]byte(word)); err != nil {
			return false, fmt.Errorf("tell the service manager of NOTIFY_SOCKET: %w", err)
		}
	}
	return true, nil
}

// passAside passes the word on while somebody else waits for the container's end, after which the channel is soon closed.
func (n *readiness) passAside() <-chan struct{} {
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		if n != nil {
			defer n.close()
			_, _ = n.pass()
		}
	}()
	return passed
}

// barrier waits until the manager has read all that: it looks for the service of a sender, which must live until then.
func (n *readiness) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	raw, err := n.manager.SyscallConn()
	if err == nil {
		var sent error
		err = raw.Write(func(fd uintptr) bool {
			sent = unix.Sendmsg(int(fd), []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), nil, 0)
			return sent != unix.EAGAIN
		})
		err = errors.Join(err, sent)
	}
	w.Close()
	if err != nil {
		return fmt.Errorf("tell the service manager of NOTIFY_SOCKET: %w", err)
	}
	_ = r.SetReadDeadline(time.Now().Add(barrierTime))
	_, _ = r.Read(make([]byte, 1)) // the end: the manager has closed its copy, or took too long
	return nil
}
