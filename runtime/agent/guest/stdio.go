package guest

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// bufferSize is what one pump moves at a time, in bytes, and what a pipe holds.
const bufferSize = 256 << 10

// stdio carries a process's standard streams. The process gets pipes, not the vsock sockets themselves: programs know
// pipes (SIGPIPE, PIPE_BUF, reopening /dev/stdout), a socket of the agent's port must not be in a user's hands, and
// only with a pipe between can PID 1 tell what the process wrote before it ended.
type stdio struct {
	mu     sync.Mutex
	stdin  *os.File // write end of the pipe
	master *os.File // of the terminal
	in     Stream
	out    [2]*outPump // stdout or the terminal, stderr
	closed bool
}

// ends are the files that the process itself gets.
type ends [3]int

func (e ends) close() {
	for i, fd := range e {
		if fd >= 0 && (i == 0 || fd != e[i-1]) {
			unix.Close(fd)
		}
	}
}

// open makes the pipes. The streams are dialled by connect.
func (s *stdio) open(p *agent.Process) (e ends, err error) {
	e = ends{-1, -1, -1}
	defer func() {
		if err != nil {
			e.close()
			s.close()
		}
	}()
	ids := [3]uint32{p.Stdin, p.Stdout, p.Stderr}
	for i, id := range ids {
		if id == 0 || p.Terminal {
			if e[i], err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return e, wrap("/dev/null", err)
			}
			continue
		}
		var fds [2]int
		if err = unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return e, os.NewSyscallError("pipe2", err)
		}
		ours := 0
		if i == 0 {
			ours = 1
		}
		e[i] = fds[1-ours]
		_, _ = unix.FcntlInt(uintptr(fds[ours]), unix.F_SETPIPE_SZ, bufferSize) // a help only
		f := pollable(fds[ours], "stdio")
		if i == 0 {
			s.stdin = f
		} else {
			s.out[i-1] = &outPump{src: f, settled: make(chan struct{})}
		}
	}
	return e, nil
}

// pollable makes a file whose reads and writes do not hold a thread.
func pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// connect dials the streams and begins to pump. master is the terminal's, or nil.
func (s *stdio) connect(dial func(uint32) (Stream, error), p *agent.Process, master *os.File) (err error) {
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if p.Terminal {
		return s.connectTerminal(dial, p.Console, master)
	}
	if s.stdin != nil {
		if s.in, err = dial(p.Stdin); err != nil {
			return err
		}
	}
	for i, id := range []uint32{p.Stdout, p.Stderr} {
		if s.out[i] == nil {
			continue
		}
		if s.out[i].dst, err = dial(id); err != nil {
			return err
		}
	}
	if s.stdin != nil {
		go s.pumpIn(s.in, s.stdin, s.closeStdin)
	}
	for _, o := range s.out {
		if o != nil {
			go o.run()
		}
	}
	return nil
}

func (s *stdio) connectTerminal(dial func(uint32) (Stream, error), id uint32, master *os.File) error {
	s.mu.Lock()
	s.master = master
	s.mu.Unlock()
	if id == 0 {
		return nil
	}
	c, err := dial(id)
	if err != nil {
		return err
	}
	s.in = c
	s.out[0] = &outPump{src: master, dst: c, settled: make(chan struct{})}
	go s.out[0].run()
	// The host's end of input is its terminal's end: hang up.
	go s.pumpIn(c, master, s.hangUp)
	return nil
}

// pumpIn carries the host's bytes to the process until either ends.
func (s *stdio) pumpIn(src Stream, dst *os.File, end func()) {
	buf := make([]byte, bufferSize)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				break // nobody reads any more
			}
		}
		if err != nil {
			break
		}
	}
	end()
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
	if s.in != nil && s.master == nil {
		s.in.Close()
	}
}

func (s *stdio) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master != nil {
		s.master.Close() // the kernel sends SIGHUP to the foreground
	}
}

func (s *stdio) resize(rows, cols uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return failure(agent.Invalid, "the process has no terminal")
	}
	c, err := s.master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	if err := c.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("TIOCSWINSZ", ioctl)
}

// settle waits until all that was written before now has gone to the host, and returns how much it was. abandon ends
// the wait: what the host does not take is lost then.
func (s *stdio) settle(abandon <-chan struct{}) (stdout, stderr uint64) {
	var n [2]uint64
	for _, o := range s.out {
		if o != nil {
			_ = o.src.SetReadDeadline(time.Unix(1, 0))
		}
	}
	for i, o := range s.out {
		if o == nil {
			continue
		}
		select {
		case <-o.settled:
			n[i] = o.total
		case <-abandon:
		}
	}
	return n[0], n[1]
}

// close ends what is left when the process has ended. Output goes on as long as a child of it holds the pipe.
func (s *stdio) close() {
	s.closeStdin()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.master != nil && s.out[0] == nil {
		s.master.Close()
	}
	for _, o := range s.out {
		if o != nil && o.dst == nil {
			o.src.Close()
		}
	}
}

// outPump carries a process's output to the host.
type outPump struct {
	src     *os.File
	dst     Stream
	settled chan struct{} // closed when total stands
	total   uint64        // bytes sent until the process ended
	once    sync.Once
}

func (o *outPump) settle(n uint64) {
	o.once.Do(func() {
		o.total = n
		close(o.settled)
	})
}

func (o *outPump) run() {
	var sent uint64
	buf := make([]byte, bufferSize)
	defer func() {
		o.settle(sent)
		_ = o.dst.CloseWrite()
		o.dst.Close()
		o.src.Close()
	}()
	for {
		n, err := o.src.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The process has ended. What the pipe still holds is its output; when it is empty, that is complete.
			if n, err = o.readNow(buf); errors.Is(err, unix.EAGAIN) {
				o.settle(sent)
				_ = o.src.SetReadDeadline(time.Time{})
				continue
			}
		}
		if n > 0 {
			if _, werr := o.dst.Write(buf[:n]); werr != nil {
				return // closing src tells the writer: EPIPE
			}
			sent += uint64(n)
		}
		if err != nil {
			return
		}
	}
}

// readNow reads without waiting, whatever the deadline: unix.EAGAIN for nothing there, io.EOF at the end.
func (o *outPump) readNow(buf []byte) (n int, err error) {
	c, err := o.src.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := c.Control(func(fd uintptr) {
		err = retry(func() (err error) { n, err = unix.Read(int(fd), buf); return err })
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
