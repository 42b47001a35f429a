// Package agent is the protocol between the monitor on the host and govmm-init, PID 1 of the guest.
//
// The guest dials every stream, the host accepts them on one vsock port. The first stream carries the control
// messages; the guest opens it before any process of a user exists and sends a secret in its first message, Hello.
// Every later stream begins with a StreamHeader that repeats the secret, which only PID 1 knows: what a user's process
// opens on the same port is closed. The guest listens on nothing.
//
// A message is a frame: its length in four bytes, the protocol's version, its kind, a request id, and its fields in the
// order of their struct, little endian, strings and lists with their length before them. A hand-kept framing, because
// the guest's binary may have 3 MB and 2 million instructions to start: encoding/gob, encoding/json and ttrpc each cost
// more than all the rest of PID 1.
package agent

import "errors"

const (
	// Version is the protocol's. Both sides are built from one tree and refuse each other's when they differ.
	Version = 1
	// Port is the vsock port of the host that the guest dials.
	Port = 1024
	// HostCID is the host's vsock address (virtio 1.2 §5.10.4).
	HostCID = 2
	// MaxMessage bounds a frame, in bytes, in both directions.
	MaxMessage = 1 << 20
	// SecretSize is the length of the secret, in bytes.
	SecretSize = 32
	// Tag is the virtio-fs tag of the exported tree: /<container>/<n>.
	Tag = "govmm"
)

// A Code says what kind of error a Reply reports.
type Code uint32

// The codes of a Reply.
const (
	OK            Code = iota
	Failed             // anything else
	Invalid            // the request cannot be carried out as it stands
	NotFound           // no such container or process
	Exists             // the id is taken
	NotRunning         // the process has ended, or was not started
	NoProgram          // args[0] was not found: a shell's status 127
	NotExecutable      // args[0] cannot be executed: a shell's status 126
)

// An Error is a request's failure, as the guest words it.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Text }

// CodeOf returns the code of an error that came from the guest, and Failed for any other.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Failed
}
