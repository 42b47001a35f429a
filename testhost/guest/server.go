package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/wire"
)

// drainTime is how long output is awaited after the command has ended while
// something it left behind still holds its stdout.
const drainTime = time.Second

// server runs the one command of a test host.
type server struct {
	control *wire.Writer
	stream  *wire.Writer
	cmd     chan *command
}

func newServer(control, stream io.Writer) *server {
	return &server{
		control: wire.NewWriter(control),
		stream:  wire.NewWriter(stream),
		cmd:     make(chan *command, 1),
	}
}

// run serves the control port until it fails. PID 1 stays on this thread.
func (s *server) run(control, stream io.Reader) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	in := wire.NewReader(control)
	var cmd *command
	for {
		t, payload, err := in.Next()
		if err != nil {
			return fmt.Errorf("control port: %w", err)
		}
		switch t {
		case wire.Ping:
			err = s.control.Frame(wire.Pong, nil)
		case wire.StartCommand:
			cmd = s.start(payload, stream, children)
		case wire.Signal:
			var info wire.SignalInfo
			if json.Unmarshal(payload, &info) == nil && cmd != nil {
				cmd.signal(syscall.Signal(info.Number))
			}
		case wire.Winsize:
			var info wire.WinsizeInfo
			if json.Unmarshal(payload, &info) == nil && cmd != nil {
				cmd.resize(info.Rows, info.Cols)
			}
		case wire.Bye:
			s.unmountScratch()
			err = s.control.Frame(wire.Bye, nil)
		}
		if err != nil {
			return fmt.Errorf("control port: %w", err)
		}
	}
}

// start runs the command and sends its Exit when it has ended.
func (s *server) start(payload []byte, stream io.Reader, children <-chan os.Signal) *command {
	var st wire.Start
	err := json.Unmarshal(payload, &st)
	if err == nil {
		err = prepare(&st)
	}
	var cmd *command
	if err == nil {
		cmd, err = newCommand(&st)
	}
	if err != nil {
		_ = s.stream.JSON(wire.Exit, wire.ExitInfo{Status: startStatus(err), Err: err.Error()})
		return nil
	}
	go s.feed(wire.NewReader(stream), cmd.stdin)
	var copies sync.WaitGroup
	for t, f := range map[wire.Type]*os.File{wire.Stdout: cmd.stdout, wire.Stderr: cmd.stderr} {
		if f != nil {
			copies.Go(func() { s.copyOut(t, f) })
		}
	}
	go func() {
		status := reap(cmd.pid, children)
		cmd.ended()
		copies.Wait()
		_ = s.stream.JSON(wire.Exit, wire.ExitInfo{Status: status})
	}()
	return cmd
}

// startStatus is the shell's status for a command that could not be started.
func startStatus(err error) int {
	if errors.Is(err, unix.ENOENT) {
		return 127
	}
	return 126
}

// prepare makes the settings that come with the command.
func prepare(st *wire.Start) error {
	if d := time.Since(time.Unix(0, st.UnixNano)); st.UnixNano != 0 && (d > time.Second || d < -time.Second) {
		ts := unix.NsecToTimespec(st.UnixNano)
		_ = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
	if err := unix.Sethostname([]byte(st.Hostname)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	for _, dir := range st.Writable {
		if err := bindWritable(dir); err != nil {
			return err
		}
	}
	return nil
}

// bindWritable mounts the machine's own dir over the copy-on-write view of it.
func bindWritable(dir string) error {
	rel := "." + dir
	fd, err := unix.OpenTree(lower, rel, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("--rw %s: %w", dir, os.NewSyscallError("open_tree", err))
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("--rw %s: %w", dir, os.NewSyscallError("move_mount", err))
	}
	return nil
}

// feed hands the runner's input to the command. It keeps reading when the
// command has closed its stdin, so that the port never fills.
func (s *server) feed(in *wire.Reader, stdin *os.File) {
	closed := false
	for {
		t, payload, err := in.Next()
		if err != nil {
			return
		}
		if t != wire.Stdin || closed {
			continue
		}
		if len(payload) == 0 {
			closed = true
			stdin.Close()
			continue
		}
		if _, err := stdin.Write(payload); err != nil {
			closed = true
			stdin.Close()
		}
	}
}

// copyOut sends everything that comes from f. When the command has ended
// (command.ended sets a deadline), it takes what is in the pipe and stops.
func (s *server) copyOut(t wire.Type, f *os.File) {
	defer f.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 && s.stream.Frame(t, buf[:n]) != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drain(t, f, buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// drain takes what lies in f without waiting: reads of an os.File whose
// deadline has passed do not even try. A writer that never stops is cut off.
func (s *server) drain(t wire.Type, f *os.File, buf []byte) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		for range 64 {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil || s.stream.Frame(t, buf[:n]) != nil {
				return
			}
		}
	})
}

// reap waits for every child, as PID 1 must, and returns the status of pid.
// It goes on reaping after that.
func reap(pid int, children <-chan os.Signal) int {
	result := make(chan int, 1)
	go func() {
		for {
			var ws syscall.WaitStatus
			got, err := syscall.Wait4(-1, &ws, 0, nil)
			switch {
			case errors.Is(err, syscall.ECHILD):
				<-children
			case got == pid:
				result <- shellStatus(ws)
			}
		}
	}()
	return <-result
}

func shellStatus(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// unmountScratch leaves a clean file system on a disk that is kept.
func (s *server) unmountScratch() {
	// What the command left running may hold files open there.
	_ = unix.Kill(-1, unix.SIGKILL)
	for range 50 {
		if unix.Unmount("/scratch", 0) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = unix.Mount("", "/scratch", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	unix.Sync()
}
