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

// A Sender is who sent a datagram in the guest: it stands before it on the stream, and before each answer.
type Sender struct {
	Address string // 4 bytes of IPv4, or 16 of IPv6
	Port    uint16
}

// Append appends the sender and its datagram to b.
func (s Sender) Append(b, datagram []byte) []byte {
	b = append(b, byte(len(s.Address)))
	b = append(b, s.Address...)
	b = binary.LittleEndian.AppendUint16(b, s.Port)
	return append(b, datagram...)
}

// CutSender reads what Append wrote.
func CutSender(b []byte) (Sender, []byte, error) {
	if len(b) == 0 || b[0] != 4 && b[0] != 16 || len(b) < int(b[0])+3 {
		return Sender{}, nil, ErrMalformed
	}
	n := int(b[0]) + 1
	return Sender{string(b[1:n]), binary.LittleEndian.Uint16(b[n:])}, b[n+2:], nil
}
