package monitor

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/network"
)

// relays is the monitor as what carries between the loopback of the container's network namespace and the guest's.
type relays monitor

const (
	// maxAsking bounds the clients of the name server that are remembered. The one that asked the longest time ago is forgotten first.
	maxAsking = 256
	// maxAnswering bounds the sockets of the remembered and of those that are being closed: a guest that takes no answers holds them up.
	maxAnswering = 4 * maxAsking
	// maxAnswer is how long an answer may be, in bytes. Clients allow for 4096 at most, and ask again by TCP.
	maxAnswer = 16 << 10
	// askTime is how long a client waits for an answer. dockerd itself gives up on other servers after some seconds.
	askTime  = 30 * time.Second
	dialTime = 5 * time.Second
)

// nameServer is docker's: rules of the namespace lead to where it listens.
var nameServer = netip.AddrPortFrom(network.Resolver, 53)

// Sockets implements network.Relay.
func (r *relays) Sockets() ([]byte, error) {
	// Beside the directory that is held: the pivoted tree has no /proc.
	fd, err := unix.Openat(int(r.tree.ProcSelfFD.Fd()), "../net/udp", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/self/net/udp", Err: err}
	}
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	return io.ReadAll(f)
}

// splice carries what either of two connections says to the other, each direction until its own end.
func splice(a, b halfCloser) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(a, b)
	}()
	carry(b, a)
	<-done
}

// Serve implements network.Relay.
func (r *relays) Serve() (tcp, udp uint16, err error) {
	m := &agent.Listen{Address: string(network.Resolver.AsSlice())}
	m.Stream = r.guest.Serve(r.relayNames)
	if tcp, err = r.guest.Listen(m); err != nil {
		return 0, 0, err
	}
	m.Datagrams, m.Stream = true, r.guest.Serve(r.relayQuestions)
	udp, err = r.guest.Listen(m)
	return tcp, udp, err
}

// relayNames carries one TCP connection to the name server.
func (r *relays) relayNames(c net.Conn) {
	guest, ok := c.(halfCloser)
	if !ok {
		return
	}
	server, err := net.DialTimeout("tcp", nameServer.String(), dialTime)
	if err != nil {
		r.log.Debug("name server", "error", err)
		return
	}
	defer server.Close()
	if _, err := guest.Write([]byte{agent.Connected}); err == nil {
		splice(guest, server.(*net.TCPConn))
	}
}

// relayQuestions carries the datagrams of all clients of the name server: each has a socket here, which the answers come back to.
func (r *relays) relayQuestions(c net.Conn) {
	a := &asking{guest: c, clients: map[agent.Sender]*client{}}
	defer a.close()
	for buf := []byte(nil); ; {
		var err error
		if buf, err = agent.ReadDatagram(c, buf); err != nil {
			return
		}
		sender, question, err := agent.CutSender(buf)
		if err != nil {
			return
		}
		server, err := a.server(sender)
		if err != nil {
			r.log.Debug("name server", "error", err)
			continue
		}
		_, _ = server.Write(question)
	}
}

// asking are the clients of the name server that wait for answers.
type asking struct {
	guest net.Conn
	write sync.Mutex // one answer at a time

	mu        sync.Mutex
	clients   map[agent.Sender]*client
	answering int // goroutines
}

var errAsking = errors.New("the guest asks more than it takes answers")

type client struct {
	net.Conn
	asked time.Time // last
}

// server is a client's socket.
func (a *asking) server(s agent.Sender) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	c := a.clients[s]
	if c == nil {
		if len(a.clients) >= maxAsking {
			a.forgetOldest()
		}
		if a.answering >= maxAnswering {
			return nil, errAsking
		}
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(nameServer))
		if err != nil {
			return nil, err
		}
		c = &client{Conn: conn}
		a.clients[s] = c
		a.answering++
		go a.answer(s, c)
	}
	c.asked = now
	return c, c.SetReadDeadline(now.Add(askTime))
}

func (a *asking) forgetOldest() {
	var oldest agent.Sender
	for s, c := range a.clients {
		if o := a.clients[oldest]; o == nil || c.asked.Before(o.asked) {
			oldest = s
		}
	}
	_ = a.clients[oldest].Close()
	delete(a.clients, oldest)
}

// answer passes on what the server says to a client, until it has not asked for a while.
func (a *asking) answer(s agent.Sender, c *client) {
	defer func() {
		_ = c.Close()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.answering--
		if a.clients[s] == c {
			delete(a.clients, s)
		}
	}()
	for buf := make([]byte, maxAnswer); ; {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // of an earlier question
		}
		if err != nil {
			return
		}
		a.write.Lock()
		err = agent.WriteDatagram(a.guest, s.Append(nil, buf[:n]))
		a.write.Unlock()
		if err != nil {
			return
		}
	}
}

func (a *asking) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients {
		_ = c.Close()
	}
}
