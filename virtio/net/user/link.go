package user

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/frames"
)

// ProgramName is what the process is called.
const ProgramName = "govmm-net"

// SocketFD is the socket that the process is started with: each message on it is a frame behind its header, but for the first of either
// side and those of OffloadsSize.
const SocketFD = 3

const (
	// socketBuffer is how much may be under way, in bytes, if the host permits it: some of the largest frames.
	socketBuffer = 1 << 20
	// answerTime is how long the process may take to its answer.
	answerTime = time.Minute
	// maxAnswer bounds it.
	maxAnswer = 64 << 10
	// sendTime is how long a frame waits for the process to take others. Then it is lost, and its sender slows down.
	sendTime = 100 * time.Millisecond
	// firstFree is the least descriptor in whose place a process that is started gets no other file.
	firstFree = 16
)

// Options are what a network needs.
type Options struct {
	// Program is govmm-net.
	Program io.Reader
	Publish []Publish
	// Namespace is the network namespace that the guest's connections come from; nil is the caller's.
	Namespace *os.File
	// ResolvConf names the file that name servers and search domains are taken from.
	ResolvConf string
}

// Link is a net.Link to a process of govmm-net, which ends with this process, however that ends.
type Link struct {
	queue   *frames.Queue
	process *os.Process
	mu      sync.Mutex // over sending
}

// Start starts a network, and returns when the published ports are open.
func Start(o Options) (*Link, error) {
	l, err := start(o)
	if err != nil {
		return nil, fmt.Errorf("user-mode network: %w", err)
	}
	return l, nil
}

func start(o Options) (*Link, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), ProgramName)
	defer theirs.Close()
	for _, fd := range fds {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
	}
	l := &Link{}
	l.queue, err = frames.New(fds[0], ProgramName)
	_ = unix.Close(fds[0]) // the queue has a descriptor of its own
	if err != nil {
		return nil, err
	}
	if err := l.run(o, theirs); err != nil {
		return nil, errors.Join(err, l.queue.Close())
	}
	_ = theirs.Close() // so that its end is seen
	c := Config{Publish: o.Publish}
	c.Nameservers, c.Search = ReadResolvConf(o.ResolvConf)
	if err := l.converse(&c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// run starts the process.
func (l *Link) run(o Options, socket *os.File) error {
	program, err := executable(o.Program)
	if err != nil {
		return err
	}
	defer unix.Close(program)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	started := make(chan error)
	go func() {
		if o.Namespace != nil {
			runtime.LockOSThread() // and never unlocked: the thread, which is in that namespace from here on, ends with this
			if err := unix.Setns(int(o.Namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				started <- fmt.Errorf("enter the caller's network namespace: %w", os.NewSyscallError("setns", err))
				return
			}
		}
		var err error
		l.process, err = os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", program), []string{ProgramName}, &os.ProcAttr{
			Dir: "/", Env: []string{}, Files: []*os.File{null, null, null, socket},
		})
		started <- err
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", ProgramName, err)
	}
	go func() { _, _ = l.process.Wait() }()
	return nil
}

// executable puts a program into memory, from where it can be executed.
func executable(program io.Reader) (int, error) {
	if program == nil {
		return 0, errors.New(`this binary was built without it: build it with "make build"`)
	}
	fd, err := unix.MemfdCreate(ProgramName, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(ProgramName, unix.MFD_CLOEXEC) // before Linux 6.3
	}
	if err != nil {
		return 0, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), ProgramName)
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{program}, make([]byte, 256<<10)); err != nil {
		return 0, err
	}
	// For reading only, as what is open for writing cannot be executed, and beyond the descriptors that a new process gets.
	read, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: ProgramName, Err: err}
	}
	defer unix.Close(read)
	high, err := unix.FcntlInt(uintptr(read), unix.F_DUPFD_CLOEXEC, firstFree)
	return high, os.NewSyscallError("fcntl", err)
}

// converse tells the process what it is to do, and waits for its word that it does.
func (l *Link) converse(c *Config) error {
	message := c.Marshal()
	if len(message) > net.MaxFrame { // what the other side takes
		return fmt.Errorf("%d published ports are too many to be named one by one: publish ranges, FIRST-LAST:FIRST-LAST", len(c.Publish))
	}
	err := l.queue.Send([][]byte{message})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	buf := make([]byte, maxAnswer)
	n, err := l.queue.Receive(ctx, [][]byte{buf}, func() {})
	switch {
	case errors.Is(err, net.ErrClosed) || err == nil && n == 0:
		return fmt.Errorf("%s ended without a word", ProgramName)
	case err != nil:
		return err
	}
	if answer := string(buf[:n]); answer != Ready {
		return errors.New(answer)
	}
	return nil
}

// Close ends the network.
func (l *Link) Close() error {
	err := l.queue.Close()
	_ = l.process.Kill() // it ends by itself, but need not at once
	return err
}

// Features implements net.Link: checksums are left out in both directions, as no wire is between, and TCP's segments are as large as they
// can be.
func (l *Link) Features() uint64 {
	return net.FeatureCSum | net.FeatureHostTSO4 | net.FeatureHostTSO6 | net.FeatureGuestCSum | net.FeatureGuestTSO4 | net.FeatureGuestTSO6
}

// Pairs implements net.Link.
func (l *Link) Pairs() int { return 1 }

// Receive implements net.Link.
func (l *Link) Receive(ctx context.Context, _ int, buffers [][]byte, idle func()) (int, error) {
	n, err := l.queue.Receive(ctx, buffers, idle)
	if err == nil && n == 0 {
		return 0, net.ErrClosed
	}
	return n, err
}

// Send implements net.Link.
func (l *Link) Send(_ context.Context, _ int, buffers [][]byte) error { return l.send(buffers) }

func (l *Link) send(buffers [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.SendWithin(sendTime, buffers)
}

// SetOffloads implements net.Link.
func (l *Link) SetOffloads(features uint64) error {
	return l.send([][]byte{binary.LittleEndian.AppendUint64(nil, features)})
}

var _ net.Link = (*Link)(nil)
