package host

import (
	"crypto/subtle"
	"net"
	"time"

	"github.com/govmm/govmm/runtime/agent"
)

const (
	// handshakeTime is what a new stream has to say what it is. The secret arrives in one packet, but an emulated guest
	// is slow.
	handshakeTime = 10 * time.Second
	// maxHandshakes bounds the streams that have not said yet what they are; further ones are closed.
	maxHandshakes = 64
)

// accept takes further streams, each of which must know the secret.
func (c *Client) accept() {
	for {
		conn, err := c.l.Accept()
		if err != nil {
			return
		}
		select {
		case c.slots <- struct{}{}:
			go func() {
				defer func() { <-c.slots }()
				c.identify(conn)
			}()
		default:
			conn.Close()
			c.refuse("too many at a time")
		}
	}
}

func (c *Client) identify(conn net.Conn) {
	// A process of the guest that connects and says nothing must not hold a slot.
	timer := time.AfterFunc(handshakeTime, func() { conn.Close() })
	h, err := agent.ReadStreamHeader(conn)
	if !timer.Stop() || err != nil || h.Control ||
		subtle.ConstantTimeCompare(h.Secret[:], c.hello.Secret[:]) != 1 || !c.deliver(h.ID, conn) {
		conn.Close()
		c.refuse("not of the guest's init")
	}
}

func (c *Client) deliver(id uint32, conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.streams[id]
	if ch == nil {
		return false
	}
	delete(c.streams, id)
	ch <- conn // has room for one
	return true
}

// refuse logs at the powers of two: any process of the guest can cause it.
func (c *Client) refuse(why string) {
	c.mu.Lock()
	c.refused++
	n := c.refused
	c.mu.Unlock()
	if n&(n-1) == 0 {
		c.log.Warn("closed a stream from the guest", "reason", why, "count", n)
	}
}

// expect reserves a stream id, 0 when none is wanted.
func (c *Client) expect(wanted bool) (uint32, chan net.Conn) {
	if !wanted {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream++
	ch := make(chan net.Conn, 1)
	c.streams[c.stream] = ch
	return c.stream, ch
}

// unexpect gives an id back, and closes a stream that came and was not taken.
func (c *Client) unexpect(id uint32, ch chan net.Conn) {
	if ch == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, id)
	select {
	case conn := <-ch:
		conn.Close()
	default:
	}
}
