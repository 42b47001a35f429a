// Package control is how govmm-run's short-lived calls talk to a container's monitor: JSON messages, one a line, over
// the Unix socket in the state directory. A connection carries one request; the connection of an exec lives as long as
// its process, and ends it when it drops.
package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/specjson"
)

// SocketName is the socket's name in the state directory.
const SocketName = "control.sock"

// maxMessage bounds a message, in bytes; a process with megabytes of environment still fits.
const maxMessage = 16 << 20

// maxFiles is how many descriptors a message may carry: an exec's stdin, stdout and stderr, or its terminal.
const maxFiles = 3

// Op names a request.
type Op string

// The requests that a monitor answers.
const (
	OpStart  Op = "start"
	OpReady  Op = "ready" // answered when the container has said that it is ready, or cannot say so
	OpKill   Op = "kill"
	OpPause  Op = "pause"
	OpResume Op = "resume"
	OpPS     Op = "ps"
	OpPIDs   Op = "pids" // the host processes of execs
	OpUpdate Op = "update"
	OpStats  Op = "stats" // what the guest knows of the container's use
	OpExec   Op = "exec"
	OpSignal Op = "signal" // on the connection of an exec: to its process
	OpResize Op = "resize" // on the connection of an exec: its terminal's size
)

// Errors of replies: the container's process has ended, has begun already, is not paused. The words are runc's.
var (
	ErrNotRunning     = errors.New("container not running")
	ErrAlreadyRunning = errors.New("cannot start an already running container")
	ErrNotPaused      = errors.New("container not paused")
)

// Request is what a caller sends.
type Request struct {
	Op      Op             `json:"op"`
	Signal  int            `json:"signal,omitempty"`
	All     bool           `json:"all,omitempty"`
	Process *specs.Process `json:"process,omitempty"`
	Cgroup  string         `json:"cgroup,omitempty"` // of an exec, below the container's
	// Resources are all limits of the container, after an update.
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	// Prepare has an update only make room for them, before the host's limits change.
	Prepare bool   `json:"prepare,omitempty"`
	PID     int    `json:"pid,omitempty"` // of an exec's host process, which the monitor cannot see
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (r Request) MarshalJSON() ([]byte, error) { return json.Marshal(r.view(specjson.Write)) }

// UnmarshalJSON implements json.Unmarshaler.
func (r *Request) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, r.view(specjson.Read)) }

func (r *Request) view(d specjson.Direction) any {
	type request Request
	return &struct {
		*request
		Process   any                                    `json:"process,omitempty"`
		Resources specjson.Section[specs.LinuxResources] `json:"resources,omitzero"`
	}{(*request)(r), specjson.Field(d, &r.Process), specjson.Resources(&r.Resources)}
}

// Process is one row of ps.
type Process struct {
	PID  int    `json:"pid"` // in the container
	PPID int    `json:"ppid"`
	UID  uint32 `json:"uid"`
	TTY  string `json:"tty"`
	// Started is in seconds since the epoch; CPU is in seconds.
	Started int64  `json:"started"`
	CPU     int64  `json:"cpu"`
	Command string `json:"command"`
}

// Reply is what the monitor answers. An exec gets two: one when the process runs, one when it ended. So does a create
// with hooks: the first, with Hooks, says that they are to be run and waits for a Request as the word to go on.
type Reply struct {
	Error     string    `json:"error,omitempty"`
	Hooks     bool      `json:"hooks,omitempty"`
	Processes []Process `json:"processes,omitempty"`
	// Stats are the guest's files of the container's cgroup, by name.
	Stats map[string]string `json:"stats,omitempty"`
	// Memory is what an update wants to bound the monitor, in bytes: -1 for nothing, 0 for what does so already.
	Memory int64 `json:"memory,omitempty"`
	PIDs   []int `json:"pids,omitempty"`
	// Ready is what the container has told its service manager, a line.
	Ready  string `json:"ready,omitempty"`
	Exited bool   `json:"exited,omitempty"`
	Status int    `json:"status,omitempty"`
}

// Err returns the error that the reply carries.
func (r *Reply) Err() error {
	if r.Error == "" {
		return nil
	}
	for _, known := range []error{ErrNotRunning, ErrAlreadyRunning, ErrNotPaused} {
		if r.Error == known.Error() {
			return known
		}
	}
	return errors.New(r.Error)
}

// Conn is one connection, from either side.
type Conn struct {
	unix *net.UnixConn
	in   *bufio.Reader
	// files are the descriptors that came with what was read last.
	files []*os.File
}

// Listen binds the socket in the directory dir. The path goes through a descriptor: engines' state roots overflow the
// 108 bytes of sun_path.
func Listen(dir string) (*net.UnixListener, error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", address(d))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Dial connects to the monitor whose state directory is dir.
func Dial(dir string) (*Conn, error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c, err := net.DialUnix("unix", nil, address(d))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return NewConn(c), nil
}

func openDir(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func address(d *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(fmt.Sprintf("/proc/self/fd/%d", d.Fd()), SocketName)}
}

// NewConn wraps an accepted connection.
func NewConn(c *net.UnixConn) *Conn {
	conn := &Conn{unix: c}
	conn.in = bufio.NewReader(readerFunc(conn.read))
	return conn
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// read takes bytes off the socket and keeps the descriptors that came with them.
func (c *Conn) read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, _, _, err := c.unix.ReadMsgUnix(p, oob)
	if oobn > 0 {
		c.keepFiles(oob[:oobn])
	}
	if n <= 0 && (err == nil || errors.Is(err, io.EOF)) {
		return 0, io.EOF // bare: bufio's callers compare it
	}
	return max(n, 0), err // -1 with an error, at which bufio panics
}

func (c *Conn) keepFiles(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			c.files = append(c.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
}

// Files hands over the descriptors that were received so far; the caller closes them.
func (c *Conn) Files() []*os.File {
	f := c.files
	c.files = nil
	return f
}

// Send writes one message with descriptors, which stay open here.
func (c *Conn) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.unix.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.unix.Write(b[n:])
	}
	return err
}

// Receive reads one message into v; io.EOF says that the other side is gone.
func (c *Conn) Receive(v any) error {
	var line []byte
	for {
		part, err := c.in.ReadSlice('\n')
		if len(line)+len(part) > maxMessage {
			return errors.New("control message is too long")
		}
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, v)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// FromFile makes a connection of a socket, which it closes.
func FromFile(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("control: not a Unix socket")
	}
	return NewConn(u), nil
}

// Call sends a message, a Request but for the monitor's first one, and waits for its reply.
func (c *Conn) Call(message any, files ...*os.File) (*Reply, error) {
	if err := c.Send(message, files...); err != nil {
		return nil, err
	}
	var reply Reply
	if err := c.Receive(&reply); err != nil {
		return nil, err
	}
	return &reply, reply.Err()
}

// Close ends the connection.
func (c *Conn) Close() error {
	for _, f := range c.Files() {
		f.Close()
	}
	return c.unix.Close()
}
