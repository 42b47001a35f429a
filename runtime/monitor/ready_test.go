package monitor

import (
	"net"
	"testing"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/control"
)

// TestReady has the starts that wait hear a container's first word that it is ready, and nothing else of it.
func TestReady(t *testing.T) {
	m := &monitor{}
	call := func() (*control.Conn, chan struct{}) {
		c, ended := relayed(t, func(c net.Conn) { m.answer(control.NewConn(c.(*net.UnixConn))) })
		conn := control.NewConn(c)
		if err := conn.Send(control.Request{Op: control.OpReady}); err != nil {
			t.Fatal(err)
		}
		return conn, ended
	}
	var reply control.Reply
	conn, ended := call()
	if err := conn.Receive(&reply); err != nil || reply.Ready != "" {
		t.Errorf("without a service manager: %q, %v", reply.Ready, err)
	}
	wantEnd(t, ended)

	m.ready.said = make(chan struct{})
	conn, ended = call() // a start that is killed
	conn.Close()
	wantEnd(t, ended)

	conn, ended = call()
	guest, listening := relayed(t, m.listenReady)
	for _, datagram := range []string{"STATUS=coming", "MAINPID=7\nREADY=1", "READY=2"} {
		if err := agent.WriteDatagram(guest, []byte(datagram)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Receive(&reply); err != nil || reply.Ready != "READY=1\n" {
		t.Errorf("got %q, %v", reply.Ready, err)
	}
	wantEnd(t, ended)
	guest.Close()
	wantEnd(t, listening)

	conn, _ = call() // one that comes late
	if err := conn.Receive(&reply); err != nil || reply.Ready != "READY=1\n" {
		t.Errorf("later: %q, %v", reply.Ready, err)
	}
}
