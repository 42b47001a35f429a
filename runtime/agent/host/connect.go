package host

import (
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// connectTime is how long a server in the guest may take to accept a connection: PID 1 gives up before.
const connectTime = 15 * time.Second

// Connect connects to a TCP server in the guest. The error is the guest's errno where there is none, or ErrClosed.
func (c *Client) Connect(to netip.AddrPort) (net.Conn, error) { return c.connect(to, false) }

// ConnectDatagrams does so by UDP, whose datagrams agent.WriteDatagram and ReadDatagram carry over the stream. That there is no server
// is not found out.
func (c *Client) ConnectDatagrams(to netip.AddrPort) (net.Conn, error) { return c.connect(to, true) }

func (c *Client) connect(to netip.AddrPort, datagrams bool) (net.Conn, error) {
	id := c.NewStream()
	defer c.DropStream(id)
	if err := c.soon(&agent.Connect{Datagrams: datagrams, Address: string(to.Addr().AsSlice()), Port: to.Port(), Stream: id}); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(connectTime)
	conn, err := c.streamUntil(id, deadline)
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(deadline)
	first := make([]byte, 1)
	_, err = io.ReadFull(conn, first)
	if err == nil && first[0] != agent.Connected {
		err = unix.Errno(first[0])
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetReadDeadline(time.Time{})
}

// streamUntil is Stream with an end.
func (c *Client) streamUntil(id uint32, deadline time.Time) (net.Conn, error) {
	c.mu.Lock()
	ch := c.streams[id]
	c.mu.Unlock()
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	select {
	case conn := <-ch:
		return conn, nil
	case <-late.C:
		return nil, unix.ETIMEDOUT
	case <-c.done:
		return nil, ErrClosed
	}
}
