package agent

import (
	"encoding/binary"
	"errors"
	"io"
)

// MaxDatagram bounds a relayed datagram, in bytes. A Unix socket's send buffer holds 208 KiB by default.
const MaxDatagram = 256 << 10

// ErrDatagram is a datagram above MaxDatagram; the stream cannot be used further.
var ErrDatagram = errors.New("agent: datagram above 256 KiB")

// WriteDatagram sends a datagram over a stream, in one Write: its length in four bytes, little endian, and itself.
func WriteDatagram(w io.Writer, p []byte) error {
	if len(p) > MaxDatagram {
		return ErrDatagram
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(p)), uint32(len(p)))
	_, err := w.Write(append(b, p...))
	return err
}

// ReadDatagram receives a datagram into buf, which grows as needed, and returns it. Its error is io.EOF when the stream
// ended between two.
func ReadDatagram(r io.Reader, buf []byte) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n > MaxDatagram {
		return nil, ErrDatagram
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf, nil
}
