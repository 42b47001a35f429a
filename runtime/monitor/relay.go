package monitor

import (
	"fmt"
	"io"
	"net"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/runtime/sandbox"
)

// openSockets finds the mounts of Unix sockets: they are relayed, not exported.
func (m *monitor) openSockets(steps []sandbox.Step) error {
	m.sockets = make([]*sandbox.Socket, len(steps))
	for i := range steps {
		var err error
		if m.sockets[i], err = m.tree.Socket(i); err != nil {
			return fmt.Errorf("mount %s: %w", steps[i].Target, err)
		}
	}
	return nil
}

// relaySockets has the guest stand in for the sockets among its mounts.
func (m *monitor) relaySockets(mounts []agent.Mount) {
	for i, s := range m.sockets {
		if s == nil {
			continue
		}
		mount := &mounts[i].Socket
		mount.Mode, mount.UID, mount.GID = s.Mode, s.UID, s.GID
		if s.Datagram() {
			mount.Kind = agent.DatagramSocket
			serve := func(c net.Conn) { m.relayDatagrams(c, s) }
			if oci.IsNotifySocket(mounts[i].Target) {
				m.ready.said = make(chan struct{})
				serve = m.listenReady
			}
			mount.Stream = m.guest.Serve(serve)
			continue
		}
		mount.Kind = agent.StreamSocket
		mount.Stream = m.guest.Serve(func(c net.Conn) { m.relayStream(c, s) })
	}
}

// halfCloser is a connection of which one direction can end alone.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// relayStream carries one connection between guest and server, each direction until its own end.
func (m *monitor) relayStream(c net.Conn, s *sandbox.Socket) {
	guest, ok := c.(halfCloser)
	if !ok {
		return
	}
	server, err := s.Dial()
	if err != nil {
		m.log.Debug("relayed socket", "error", err)
		return
	}
	defer server.Close()
	if _, err := guest.Write([]byte{agent.Connected}); err != nil {
		return
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		carry(server, guest)
		if _, err := guest.Write(nil); err != nil {
			server.Close() // the client is gone: it has not just said all it had to say
		}
	}()
	carry(guest, server)
	<-up
}

// carry copies until src ends, and passes the end on. When either is broken both are closed, which ends the other
// direction too.
func carry(dst, src halfCloser) {
	if _, err := copyBuffer(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.CloseWrite()
}

// relayDatagrams sends the guest's datagrams to a socket. What the server does not take in that moment it waits for; what it refuses is
// lost, as datagrams are.
func (m *monitor) relayDatagrams(c net.Conn, s *sandbox.Socket) {
	server, err := s.Dial()
	if err != nil {
		m.log.Debug("relayed socket", "error", err)
		return
	}
	defer server.Close()
	var buf []byte
	for {
		if buf, err = agent.ReadDatagram(c, buf); err != nil {
			return
		}
		_, _ = server.Write(buf)
	}
}
