package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// Every stream begins with four bytes that say what it is.
var (
	controlMagic = [4]byte{'g', 'v', 'm', 'C'}
	streamMagic  = [4]byte{'g', 'v', 'm', 'S'}
)

// A StreamHeader stands at the beginning of every stream. The control stream has neither secret nor id: its Hello
// brings the secret.
type StreamHeader struct {
	Control bool
	Secret  [SecretSize]byte
	ID      uint32
}

var errNotOurs = errors.New("agent: the stream is not the agent's")

// WriteTo implements io.WriterTo, in one Write.
func (h StreamHeader) WriteTo(w io.Writer) (int64, error) {
	b := controlMagic[:]
	if !h.Control {
		b = append(streamMagic[:], h.Secret[:]...)
		b = binary.LittleEndian.AppendUint32(b, h.ID)
	}
	n, err := w.Write(b)
	return int64(n), err
}

// ReadStreamHeader reads exactly a header from r.
func ReadStreamHeader(r io.Reader) (StreamHeader, error) {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return StreamHeader{}, err
	}
	if magic == controlMagic {
		return StreamHeader{Control: true}, nil
	}
	if !bytes.Equal(magic[:], streamMagic[:]) {
		return StreamHeader{}, errNotOurs
	}
	var rest [SecretSize + 4]byte
	if _, err := io.ReadFull(r, rest[:]); err != nil {
		return StreamHeader{}, err
	}
	h := StreamHeader{ID: binary.LittleEndian.Uint32(rest[SecretSize:])}
	copy(h.Secret[:], rest[:])
	return h, nil
}
