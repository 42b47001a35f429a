package monitor

import (
	"fmt"
	"io"
	"net"
	"path"

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
	i, name, ok := oci.BoundNotifySocket(m.cfg.Spec)
	if !ok {
		return nil
	}
	s, err := m.tree.SocketIn(i, name)
	if err != nil {
		m.log.Debug("NOTIFY_SOCKET is not relayed", "error", err)
	} else if s != nil && s.Datagram() {
		m.notify = s
	}
	return nil
}

// relaySockets has the guest stand in for the sockets among its mounts, and returns the mounts with one more for a NOTIFY_SOCKET that
// would be a file of one of them.
func (m *monitor) relaySockets(mounts []agent.Mount) []agent.Mount {
	for i, s := range m.sockets {
		switch {
		case s == nil:
		case !s.Datagram():
			mounts[i].Socket = m.standIn(s, agent.StreamSocket, func(c net.Conn) { m.relayStream(c, s) })
		case m.cfg.Manager && i == len(m.sockets)-1:
			m.ready.said = make(chan struct{})
			mounts[i].Socket = m.standIn(s, agent.DatagramSocket, m.listenReady)
		default:
			mounts[i].Socket = m.standIn(s, agent.DatagramSocket, func(c net.Conn) { m.relayDatagrams(c, s) })
		}
	}
	if m.notify == nil {
		return mounts
	}
	i, name, _ := oci.BoundNotifySocket(m.cfg.Spec)
	return append(mounts, agent.Mount{
		Bind: true, Target: path.Join(mounts[i].Target, name), Flags: mounts[i].Flags,
		Socket: m.standIn(m.notify, agent.DatagramSocket, func(c net.Conn) { m.relayDatagrams(c, m.notify) }),
	})
}

// standIn has the guest make a socket in the place of s, whose connections or datagrams serve gets.
func (m *monitor) standIn(s *sandbox.Socket, kind agent.SocketKind, serve func(net.Conn)) agent.Socket {
	return agent.Socket{Kind: kind, Mode: s.Mode, UID: s.UID, GID: s.GID, Stream: m.guest.Serve(serve)}
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
