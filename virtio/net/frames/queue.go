// Package frames carries frames between a descriptor, of which one system call takes a whole frame, and buffers in guest memory.
package frames

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
)

// Queue is one descriptor that carries frames. Receive never runs twice at a time, nor does Send; Close may be called at any time.
type Queue struct {
	file *os.File
	in   vector // of the one who receives
	out  vector // of the one who sends

	rx struct {
		conn func(fd uintptr) bool // kept, so that none is made for each frame
		n    int
		err  error
		idle func()
	}
	tx struct {
		conn func(fd uintptr)
		err  error
	}
	raw    syscall.RawConn
	socket bool // the descriptor is one
	// waiting is what ends a wait of the receiver's: the end of its context.
	waiting *interruption
}

// New makes a queue of a duplicate of fd, which name is for errors.
func New(fd int, name string) (*Queue, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(own, true); err != nil {
		_ = unix.Close(own)
		return nil, os.NewSyscallError("fcntl", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(own, &st); err != nil {
		_ = unix.Close(own)
		return nil, os.NewSyscallError("fstat", err)
	}
	q := &Queue{file: os.NewFile(uintptr(own), name), socket: st.Mode&unix.S_IFMT == unix.S_IFSOCK}
	q.rx.conn, q.tx.conn = q.tryRead, q.tryWrite
	q.raw, err = q.file.SyscallConn()
	return q, err
}

// File is the descriptor; it belongs to q.
func (q *Queue) File() *os.File { return q.file }

// Close closes the descriptor. What waits ends with net.ErrClosed.
func (q *Queue) Close() error { return q.file.Close() }

// tryRead reads a frame, or says that there is none and the poller must wait for one.
func (q *Queue) tryRead(fd uintptr) bool {
	for {
		q.rx.n, q.rx.err = q.in.read(fd)
		switch {
		case errors.Is(q.rx.err, unix.EINTR):
			continue
		case errors.Is(q.rx.err, unix.EAGAIN):
			q.rx.idle()
			return false
		}
		return true
	}
}

func (q *Queue) tryWrite(fd uintptr) {
	for {
		if q.socket {
			q.tx.err = q.out.send(fd)
		} else {
			q.tx.err = q.out.write(fd)
		}
		if !errors.Is(q.tx.err, unix.EINTR) {
			return
		}
	}
}

// Receive puts the next frame into the buffers, as net.Link's does.
func (q *Queue) Receive(ctx context.Context, buffers [][]byte, idle func()) (int, error) {
	if q.waiting == nil || q.waiting.ctx != ctx {
		if err := q.watch(ctx); err != nil {
			return 0, err
		}
	}
	q.in.set(buffers)
	q.rx.idle, q.rx.err = idle, nil
	err := q.raw.Read(q.rx.conn)
	q.in.clear()
	switch {
	case err != nil && ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil: // the file is closed: the poller has no other error
		return 0, fmt.Errorf("%w (%v)", net.ErrClosed, err)
	case q.rx.err != nil:
		return 0, closedOr(os.NewSyscallError("readv", q.rx.err))
	}
	return q.rx.n, nil
}

// Send writes a frame at once, or loses it.
func (q *Queue) Send(buffers [][]byte) error {
	q.out.set(buffers)
	err := q.raw.Control(q.tx.conn)
	q.out.clear()
	if err != nil {
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	}
	return q.sent()
}

// sent is what became of a frame.
func (q *Queue) sent() error {
	switch {
	case errors.Is(q.tx.err, unix.EINVAL) || errors.Is(q.tx.err, unix.EMSGSIZE):
		return net.ErrBadFrame
	case q.tx.err != nil:
		return closedOr(os.NewSyscallError("writev", q.tx.err))
	}
	return nil
}

// SendWithin writes a frame, and waits for room for it, at most for so long.
func (q *Queue) SendWithin(d time.Duration, buffers [][]byte) error {
	err := q.Send(buffers)
	if !errors.Is(err, unix.EAGAIN) {
		return err
	}
	if err := q.file.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	}
	q.out.set(buffers)
	defer q.out.clear()
	err = q.raw.Write(func(fd uintptr) bool {
		q.tryWrite(fd)
		return !errors.Is(q.tx.err, unix.EAGAIN)
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	}
	return q.sent()
}

// closedOr recognises a queue, an interface or another end that is not there any more.
func closedOr(err error) error {
	if errors.Is(err, unix.EBADFD) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%w (%v)", net.ErrClosed, err)
	}
	return err
}

// interruption lets the end of a context end a wait in the poller.
type interruption struct {
	ctx   context.Context
	stop  func() bool
	ended chan struct{} // closed after the deadline was set
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// watch has the end of ctx end reads from now on, and no longer that of the context before. It is kept from frame to
// frame.
func (q *Queue) watch(ctx context.Context) error {
	if w := q.waiting; w != nil {
		q.waiting = nil
		if !w.stop() {
			<-w.ended
		}
		if err := q.file.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("%w (%v)", net.ErrClosed, err)
		}
	}
	w := &interruption{ctx: ctx, ended: make(chan struct{})}
	w.stop = context.AfterFunc(ctx, func() {
		_ = q.file.SetReadDeadline(past)
		close(w.ended)
	})
	q.waiting = w
	return nil
}
