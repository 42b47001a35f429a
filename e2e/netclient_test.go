package e2e

import (
	"bufio"
	"crypto/sha256"
	encoding "encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// networkTools are what the client does with networks, in containers and on the host.
var networkTools = map[string]func(args []string) error{
	"echo":     func(args []string) error { return serveEcho(args[0]) },
	"ask-echo": func(args []string) error { return askEcho(args[0], args[1], args[2]) },
	"many":     func(args []string) error { return many(args[0], number(args[1])) },
	"streams":  func(args []string) error { return serveStreams(args[0]) },
	"stream":   func(args []string) error { return streamBothWays(args[0], number(args[1])) },
	"garbage":  func(args []string) error { return garbage(args[0], time.Duration(number(args[1]))*time.Second) },
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// patience is how long a tool waits for a peer that may only be on its way.
const patience = 60 * time.Second

// serveEcho sends back what comes, over TCP and UDP.
func serveEcho(address string) error {
	u, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go func() {
		for buf := make([]byte, 1<<16); ; {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
	return acceptAll(address, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

func acceptAll(address string, each func(net.Conn)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			each(c)
		}()
	}
}

// askEcho prints what an echo server answers, which may come up late.
func askEcho(network, address, text string) error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var answer string
		if answer, err = askOnce(network, address, text); err == nil {
			fmt.Println(network, answer)
			return nil
		}
	}
	return err
}

func askOnce(network, address, text string) (string, error) {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	buf := make([]byte, len(text))
	_, err = io.ReadFull(c, buf)
	return string(buf), err
}

// many asks an echo server over n connections, some of them at a time.
func many(address string, n int64) error {
	const workers = 8
	var next, failed atomic.Int64
	var first atomic.Pointer[error]
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				text := fmt.Sprintf("connection %d", i)
				answer, err := askOnce("tcp", address, text)
				if err == nil && answer != text {
					err = fmt.Errorf("%q instead of %q", answer, text)
				}
				if err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	all.Wait()
	if err := first.Load(); err != nil {
		return fmt.Errorf("%d of %d connections failed: %w", failed.Load(), n, *err)
	}
	fmt.Println(n, "connections")
	return nil
}

// pattern is bytes of which no two blocks are equal, and no two streams.
type pattern struct {
	block []byte
	left  int64
	seen  uint64
}

func newPattern(n int64) io.Reader {
	p := &pattern{block: make([]byte, 64<<10), left: n}
	var seed [32]byte
	encoding.NativeEndian.PutUint64(seed[:], rand.Uint64())
	_, _ = rand.NewChaCha8(seed).Read(p.block)
	return p
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	p.seen++
	encoding.NativeEndian.PutUint64(p.block[p.seen%64*8:], p.seen)
	n := copy(b, p.block[:min(int64(len(p.block)), p.left)])
	p.left -= int64(n)
	return n, nil
}

// pump copies n bytes and returns their sum.
func pump(w io.Writer, r io.Reader, n int64) (string, error) {
	sum := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, sum)}, struct{ io.Reader }{io.LimitReader(r, n)}, make([]byte, 256<<10))
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

// serveStreams takes as many bytes as a client says, sends as many, and then the sums of both.
func serveStreams(address string) error {
	return acceptAll(address, func(c net.Conn) {
		in := bufio.NewReader(c)
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		n := number(strings.TrimSpace(line))
		got, err := pump(io.Discard, in, n)
		if err != nil {
			return
		}
		sent, err := pump(c, newPattern(n), n)
		if err == nil {
			fmt.Fprintln(c, got, sent)
		}
	})
}

// streamBothWays sends n bytes, takes as many, and compares the sums.
func streamBothWays(address string, n int64) error {
	var c net.Conn
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if c, err = net.DialTimeout("tcp", address, 5*time.Second); err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, n); err != nil {
		return err
	}
	sent, err := pump(c, newPattern(n), n)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	in := bufio.NewReader(c)
	got, err := pump(io.Discard, in, n)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the peer's sums: %w", err)
	}
	if theirs := strings.TrimSpace(line); theirs != sent+" "+got {
		return fmt.Errorf("sent %s and got %s, but the peer says %s", sent, got, theirs)
	}
	fmt.Println(n, "bytes each way")
	return nil
}

// garbage sends frames of all kinds as quickly as it can: random ones, headers that lie, foreign senders, and offloads that make no sense.
func garbage(name string, duration time.Duration) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	offload, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(offload)
	if err := unix.SetsockoptInt(offload, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6}
	sent, refused := 0, 0
	for end := time.Now().Add(duration); time.Now().Before(end); {
		for range 64 {
			frame, socket := randomFrame(i), fd
			if rand.IntN(4) == 0 {
				frame, socket = append(randomOffload(), frame...), offload
			}
			switch err := unix.Sendto(socket, frame, 0, to); {
			case err == nil:
				sent++
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EAGAIN):
				refused++ // by the container's own kernel
			default:
				return err
			}
		}
	}
	fmt.Fprintln(os.Stderr, "frames:", sent, "refused:", refused)
	if sent == 0 {
		return errors.New("no frame was sent")
	}
	fmt.Println("frames sent")
	return nil
}

// randomOffload is a struct virtio_net_hdr.
func randomOffload() []byte {
	b := make([]byte, 10)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	b[0] &= 3                                        // needs a checksum, or is said to have a good one
	b[1] = []byte{0, 1, 3, 4, 5, 0x81}[rand.IntN(6)] // GSO of TCP over IPv4, UDP, TCP over IPv6, datagrams, with ECN
	if rand.IntN(2) == 0 {
		encoding.NativeEndian.PutUint16(b[2:], 54) // a length of headers that is right
		encoding.NativeEndian.PutUint16(b[6:], 34) // a place for a checksum that is
		encoding.NativeEndian.PutUint16(b[8:], 16)
	}
	return b
}

// randomFrame is an Ethernet frame of a kind that somebody may believe.
func randomFrame(i *net.Interface) []byte {
	b := make([]byte, 14+rand.IntN(i.MTU))
	for at := range b[:min(len(b), 128)] {
		b[at] = byte(rand.Uint32())
	}
	switch rand.IntN(3) {
	case 0:
		copy(b, "\xff\xff\xff\xff\xff\xff")
	case 1:
		b[0] &^= 1
	}
	if rand.IntN(2) == 0 {
		copy(b[6:], i.HardwareAddr)
	}
	encoding.BigEndian.PutUint16(b[12:], []uint16{0x800, 0x86dd, 0x806, 0x8100, 0x88a8, 0x8847, uint16(rand.Uint32())}[rand.IntN(7)])
	if len(b) > 14+40 {
		b[14] = []byte{0x45, 0x4f, 0x60, b[14]}[rand.IntN(4)]
		b[23] = []byte{1, 6, 17, 58, b[23]}[rand.IntN(5)]
	}
	return b
}
