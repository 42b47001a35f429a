package vsock

import (
	"fmt"
	"net"
	"sync"
	"syscall"
)

const network = "vsock"

// Addr is the address of one end of a stream.
type Addr struct {
	CID, Port uint32
}

// Network implements net.Addr.
func (*Addr) Network() string { return network }

// String implements net.Addr: "CID:PORT".
func (a *Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// listener implements net.Listener.
type listener struct {
	d    *Device
	port uint32
	// conns has those that are established, whether or not the guest has given up meanwhile. Only the device sends, under
	// its mu and while the listener is in its table.
	conns chan *Conn
	done  chan struct{}
	once  sync.Once
}

// Listen accepts the guest's connections to a port of the host's CID. They are established before Accept; 128 may wait
// for it, and more are refused.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	switch {
	case d.closed:
		err = net.ErrClosed
	case port == ^uint32(0): // VMADDR_PORT_ANY
		err = syscall.EINVAL
	case d.listeners[port] != nil:
		err = syscall.EADDRINUSE
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: &Addr{HostCID, port}, Err: err}
	}
	l := &listener{d: d, port: port, conns: make(chan *Conn, backlog), done: make(chan struct{})}
	d.listeners[port] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.conns:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
}

func (l *listener) Addr() net.Addr { return &Addr{HostCID, l.port} }

// Close resets the connections that nobody accepted.
func (l *listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: network, Addr: l.Addr(), Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		l.d.mu.Lock()
		if l.d.listeners[l.port] == l {
			delete(l.d.listeners, l.port)
		}
		l.d.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				c.Abort()
			default:
				return
			}
		}
	})
	return err
}

// ServeUnclaimed has serve called, in a goroutine of its own, for each stream that the guest wants to open to a port on
// which nobody listens. The guest is refused when serve returns without having called accept, and what accept returned is
// serve's to close. nil refuses all from now on.
func (d *Device) ServeUnclaimed(serve func(port uint32, accept func() (net.Conn, error))) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unclaimed = serve
}

// serveUnclaimed runs serve for a connection that was offered.
func (c *Conn) serveUnclaimed(serve func(port uint32, accept func() (net.Conn, error))) {
	defer func() {
		c.d.mu.Lock()
		defer c.d.mu.Unlock()
		c.d.serving--
	}()
	serve(c.ports.host, func() (net.Conn, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.state != offered {
			return nil, &net.OpError{Op: "accept", Net: network, Addr: c.LocalAddr(), Err: syscall.ECONNABORTED}
		}
		c.state, c.opened = established, true
		c.send(dueResponse)
		return c, nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == offered {
		c.finish(syscall.ECONNREFUSED, true)
	}
}
