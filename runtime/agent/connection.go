package agent

// Listen has PID 1 stand in, at an address of the guest, for a server of the host. Each connection to it gets a stream of its own, as
// those to a StreamSocket; datagrams share one, each behind its Sender, and so do the answers. The port is the guest's
// choice: the Reply's Port.
type Listen struct {
	Datagrams bool
	Address   string // 4 bytes of IPv4, or 16 of IPv6
	Stream    uint32 // stream id, which the guest may dial many times
}

func (*Listen) kind() Kind { return kindListen }
func (m *Listen) code(c *coder) {
	c.flag(&m.Datagrams)
	c.str(&m.Address)
	c.u32(&m.Stream)
}

// Connect has PID 1 connect to a server in the guest, by TCP or, for Datagrams, by UDP, and then dial a stream: its first byte is
// Connected, or the errno for which there is no connection. Datagrams cross it as WriteDatagram writes them.
type Connect struct {
	Datagrams bool
	Address   string // as in Listen
	Port      uint16
	Stream    uint32
}

func (*Connect) kind() Kind { return kindConnect }
func (m *Connect) code(c *coder) {
	c.flag(&m.Datagrams)
	c.str(&m.Address)
	c.u16(&m.Port)
	c.u32(&m.Stream)
}
