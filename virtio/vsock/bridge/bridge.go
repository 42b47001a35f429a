// Package bridge connects a guest's vsock to Unix sockets of the host, with Firecracker's protocol. A client of the
// socket PATH writes "CONNECT PORT\n", reads "OK HOSTPORT\n", and talks to the guest's port; it is hung up on when the
// guest refuses. A stream of the guest to the host's port P goes to whoever listens on PATH_P.
package bridge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/govmm/govmm/virtio"
)

const (
	// maxLine bounds the CONNECT line, in bytes.
	maxLine = 32
	// lineTimeout is how long a client may take to write it, and a guest to answer.
	lineTimeout = 10 * time.Second
	// maxClients bounds the clients at a time; the device bounds the guest's streams.
	maxClients = 256
)

// Guest is the host side of a vsock device.
type Guest interface {
	// Dial connects to a port of the guest. The local address of the connection ends in ":PORT".
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// ServeUnclaimed has serve called, in a goroutine of its own, for each stream that the guest wants to open to a port
	// on which nobody listens. The guest is refused when serve returns without having called accept.
	ServeUnclaimed(serve func(port uint32, accept func() (net.Conn, error)))
}

// Bridge is a running bridge.
type Bridge struct {
	path    string
	guest   Guest
	log     *slog.Logger
	limiter virtio.Limiter
	l       *net.UnixListener
	ctx     context.Context
	cancel  context.CancelFunc
	clients chan struct{} // a token for each
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// New listens on the Unix socket path and begins to serve both directions. A socket file that nobody listens on is
// replaced.
func New(path string, guest Guest, log *slog.Logger) (*Bridge, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("vsock bridge: %w", err)
	}
	b := &Bridge{path: path, guest: guest, log: log, l: l, clients: make(chan struct{}, maxClients)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	guest.ServeUnclaimed(b.serveGuest)
	b.wg.Go(b.acceptClients)
	return b, nil
}

// listen removes what a bridge that was killed left behind.
func listen(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err == nil {
		return l, nil
	}
	info, serr := os.Lstat(path)
	if serr != nil || info.Mode().Type() != fs.ModeSocket {
		return nil, err
	}
	if c, derr := net.DialUnix("unix", nil, addr); derr == nil {
		_ = c.Close()
		return nil, err
	}
	if rerr := os.Remove(path); rerr != nil {
		return nil, err
	}
	return net.ListenUnix("unix", addr)
}

// Close ends the bridge and all its streams, and removes the socket file.
func (b *Bridge) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.guest.ServeUnclaimed(nil)
	b.cancel()
	err := b.l.Close()
	b.wg.Wait()
	return err
}

// enter counts the caller among those that Close waits for, unless it is too late.
func (b *Bridge) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Add(1)
	return true
}

func (b *Bridge) complain(msg string, args ...any) {
	if ok, dropped := b.limiter.Allow(); ok {
		b.log.Warn("vsock bridge: "+msg, append(args, "suppressed", dropped)...)
	}
}

func (b *Bridge) acceptClients() {
	for {
		select {
		case b.clients <- struct{}{}:
		case <-b.ctx.Done():
			return
		}
		c, err := b.l.AcceptUnix()
		switch {
		case err == nil:
			b.wg.Go(func() { // this goroutine is one of those that Close waits for
				defer func() { <-b.clients }()
				b.serveClient(c)
			})
		case b.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, most likely
			<-b.clients
			b.complain("accept", "error", err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// serveClient serves one client: its CONNECT line, then the stream.
func (b *Bridge) serveClient(c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(b.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(lineTimeout))
	in := bufio.NewReaderSize(c, maxLine)
	port, err := readConnect(in)
	if err != nil {
		b.complain("a client that does not write CONNECT", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, lineTimeout)
	defer cancel()
	g, err := b.guest.Dial(ctx, port)
	if err != nil {
		return // the client reads the end of the stream
	}
	local := g.LocalAddr().String()
	if _, err := fmt.Fprintf(c, "OK %s\n", local[strings.LastIndexByte(local, ':')+1:]); err != nil {
		_ = g.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	early, _ := in.Peek(in.Buffered())
	b.splice(c, g, early)
}

// readConnect reads "CONNECT PORT\n". What follows stays in the reader.
func readConnect(in *bufio.Reader) (uint32, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	word, number, ok := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	port, err := strconv.ParseUint(number, 10, 32)
	if !ok || word != "CONNECT" || err != nil {
		return 0, fmt.Errorf("%.40q is not CONNECT PORT", line)
	}
	return uint32(port), nil
}

func (b *Bridge) portPath(port uint32) string {
	return b.path + "_" + strconv.FormatUint(uint64(port), 10)
}

// serveGuest serves a stream that the guest wants to open.
func (b *Bridge) serveGuest(port uint32, accept func() (net.Conn, error)) {
	if !b.enter() {
		return
	}
	defer b.wg.Done()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.portPath(port), Net: "unix"})
	if err != nil {
		b.complain("the guest calls a port without a listener", "port", port, "error", err)
		return
	}
	defer c.Close()
	if g, err := accept(); err == nil {
		b.splice(c, g, nil)
	}
}

func abort(c net.Conn) {
	if a, ok := c.(interface{ Abort() }); ok {
		a.Abort()
		return
	}
	_ = c.Close()
}

// splice copies both ways until both directions have ended. early is what was read of the client already.
func (b *Bridge) splice(c *net.UnixConn, g net.Conn, early []byte) {
	defer g.Close()
	stop := context.AfterFunc(b.ctx, func() {
		_ = c.Close()
		abort(g)
	})
	defer stop()
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, err := g.Write(early)
		if err == nil {
			_, err = io.Copy(g, c)
		}
		closeWrite(g)
		if err != nil {
			_ = c.CloseRead() // the guest takes no more
		}
	}()
	_, err := io.Copy(c, g)
	_ = c.CloseWrite()
	if err != nil {
		closeRead(g) // the client takes no more
	}
	if _, err := g.Write(nil); err != nil {
		_ = c.CloseRead() // the guest has gone altogether: do not wait for the client
	}
	<-up
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

func closeRead(c net.Conn) {
	if h, ok := c.(interface{ CloseRead() error }); ok {
		_ = h.CloseRead()
	}
}
