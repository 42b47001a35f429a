package monitor

import (
	"net"
	"sync"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/oci"
)

// readiness is what the container has told its service manager.
type readiness struct {
	once sync.Once
	line string
	said chan struct{} // closed when line is there; nil where there is no manager
}

// listenReady takes what the container tells its service manager, and keeps the first word that it is ready for the start that waits
// for it: a manager heeds only the processes of its own service, and the call that it has made is one.
func (m *monitor) listenReady(c net.Conn) {
	var buf []byte
	for {
		var err error
		if buf, err = agent.ReadDatagram(c, buf); err != nil {
			return
		}
		if line, ok := oci.ReadyLine(buf); ok {
			m.ready.once.Do(func() {
				m.ready.line = line
				close(m.ready.said)
			})
		}
	}
}

// awaitReady answers a start when the container is ready; one that ends before ends the connection, too.
func (m *monitor) awaitReady(c *control.Conn) {
	if m.ready.said == nil {
		_ = c.Send(control.Reply{})
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = c.Receive(&control.Request{})
	}()
	select {
	case <-m.ready.said:
		m.answering.Add(1)
		defer m.answering.Add(-1)
		_ = c.Send(control.Reply{Ready: m.ready.line})
	case <-gone:
	}
}
