// Package wire is the framing between the runner and the guest side of the
// test host, spoken over two virtio-serial ports: one carries the command's
// streams, the other control messages, so that a blocked reader of stdout
// cannot hold up a heartbeat.
//
// A frame is one byte of type, four bytes of little-endian length, and the
// payload.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Names of the virtio-serial ports.
const (
	// ControlPort carries Start, Ping, Signal, Winsize, Ready, Pong, Log.
	ControlPort = "org.govmm.testhost.control"
	// StreamPort carries Stdin, Stdout, Stderr, Exit.
	StreamPort = "org.govmm.testhost.stream"
)

// MaxPayload bounds a frame's payload in bytes.
const MaxPayload = 64 << 10

// Type tells what a frame means.
type Type byte

// Frames on the stream port.
const (
	// Stdin is input for the command; an empty payload is end of file.
	Stdin Type = 'i'
	// Stdout is output of the command.
	Stdout Type = 'o'
	// Stderr is error output of the command.
	Stderr Type = 'e'
	// Exit is an ExitInfo; it follows the last byte of output.
	Exit Type = 'x'
)

// Frames on the control port.
const (
	// StartCommand is a Start, sent once.
	StartCommand Type = 's'
	// Ping asks for a Pong; both are empty.
	Ping Type = 'p'
	// Signal is a SignalInfo for the command's process group.
	Signal Type = 'k'
	// Winsize is a WinsizeInfo for the command's terminal.
	Winsize Type = 'w'
	// Bye asks the guest to unmount the scratch disk; it answers with Bye.
	Bye Type = 'b'
	// Ready says that the guest takes a StartCommand; payload is a ReadyInfo.
	Ready Type = 'r'
	// Pong answers a Ping.
	Pong Type = 'q'
	// Log is a line of text from the guest side for the runner's stderr.
	Log Type = 'l'
)

// Start describes the command to run.
type Start struct {
	Argv     []string
	Env      []string // NAME=value
	Dir      string
	TTY      bool
	Rows     uint16
	Cols     uint16
	Hostname string
	// Writable names directories of the machine that are not copy-on-write.
	Writable []string
	// UnixNano is the runner's clock; 0 leaves the guest's clock alone.
	UnixNano int64
}

// ReadyInfo is what the guest tells about its boot.
type ReadyInfo struct {
	// UptimeMillis is the guest kernel's uptime at this moment.
	UptimeMillis int64
	// Warnings lists what could not be set up.
	Warnings []string
}

// ExitInfo is how the command ended.
type ExitInfo struct {
	// Status is the exit status as a shell gives it: 128+n for signal n.
	Status int
	// Err tells why the command could not be started, or is empty.
	Err string
}

// SignalInfo is a signal for the command.
type SignalInfo struct{ Number int }

// WinsizeInfo is the size of the runner's terminal.
type WinsizeInfo struct{ Rows, Cols uint16 }

// Writer writes frames; several goroutines may share it.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes one frame. Header and payload leave in one Write, because a
// virtio-serial port moves one buffer per Write.
func (w *Writer) Frame(t Type, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("frame %q: payload of %d bytes is over %d", byte(t), len(payload), MaxPayload)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(t), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(w.buf[1:], uint32(len(payload)))
	w.buf = append(w.buf, payload...)
	_, err := w.w.Write(w.buf)
	return err
}

// JSON writes one frame whose payload is v in JSON.
func (w *Writer) JSON(t Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.Frame(t, b)
}

// Reader reads frames.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame; the payload is valid until the next call. The
// error is io.EOF only between two frames.
func (r *Reader) Next() (Type, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("frame %q: payload of %d bytes is over %d", head[0], n, MaxPayload)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return Type(head[0]), r.buf, nil
}
