package agent

import (
	"encoding/binary"
	"errors"
	"io"
)

var (
	// ErrMalformed is a frame that does not decode; the stream cannot be used further.
	ErrMalformed = errors.New("agent: malformed message")
	// ErrTooLarge is a frame above MaxMessage.
	ErrTooLarge = errors.New("agent: message above 1 MiB")
	// ErrVersion is a peer of another version.
	ErrVersion = errors.New("agent: protocol versions differ: the guest's init and the monitor come from different builds")
)

const headerSize = 10 // length u32 | version u8 | kind u8 | id u32; length counts what follows itself

// coder writes a message's fields to b, or reads them from it: one code method a struct serves both, so the two cannot
// differ. After the first error it does nothing.
type coder struct {
	b       []byte
	reading bool
	err     error
}

func (c *coder) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.b) {
		c.err = ErrMalformed
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *coder) u8(v *uint8) {
	if !c.reading {
		c.b = append(c.b, *v)
	} else if p := c.take(1); p != nil {
		*v = p[0]
	}
}

func (c *coder) u16(v *uint16) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint16(c.b, *v)
	} else if p := c.take(2); p != nil {
		*v = binary.LittleEndian.Uint16(p)
	}
}

func (c *coder) u32(v *uint32) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint32(c.b, *v)
	} else if p := c.take(4); p != nil {
		*v = binary.LittleEndian.Uint32(p)
	}
}

func (c *coder) u64(v *uint64) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint64(c.b, *v)
	} else if p := c.take(8); p != nil {
		*v = binary.LittleEndian.Uint64(p)
	}
}

func (c *coder) i32(v *int32) {
	u := uint32(*v)
	c.u32(&u)
	*v = int32(u)
}

func (c *coder) i64(v *int64) {
	u := uint64(*v)
	c.u64(&u)
	*v = int64(u)
}

func (c *coder) flag(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(&u)
	if u > 1 {
		c.err = ErrMalformed // one encoding a value
	}
	*v = u == 1
}

// count codes the length of a list. Each element takes at least one byte, so what is left bounds an honest one, and
// with it what the reader allocates.
func (c *coder) count(n int) int {
	u := uint32(n)
	c.u32(&u)
	if c.reading && c.err == nil && int64(u) > int64(len(c.b)) {
		c.err = ErrMalformed
	}
	if c.err != nil {
		return 0
	}
	return int(u)
}

func (c *coder) str(v *string) {
	n := c.count(len(*v))
	if !c.reading {
		c.b = append(c.b, *v...)
	} else {
		*v = string(c.take(n))
	}
}

func (c *coder) raw(p []byte) {
	if !c.reading {
		c.b = append(c.b, p...)
	} else {
		copy(p, c.take(len(p)))
	}
}

// list codes a list whose elements elem codes. It grows as elements decode, never ahead of them.
func list[T any](c *coder, s *[]T, elem func(*T)) {
	n := c.count(len(*s))
	if !c.reading {
		for i := range *s {
			elem(&(*s)[i])
		}
		return
	}
	*s = nil
	for range n {
		var v T
		elem(&v)
		if c.err != nil {
			return
		}
		*s = append(*s, v)
	}
}

// Append appends m's frame to b.
func Append(b []byte, id uint32, m Message) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	c := coder{b: b}
	m.code(&c)
	b = c.b
	if len(b)-start > MaxMessage {
		return b[:start], ErrTooLarge
	}
	h := b[start:]
	binary.LittleEndian.PutUint32(h, uint32(len(h)-4))
	h[4], h[5] = Version, uint8(m.kind())
	binary.LittleEndian.PutUint32(h[6:], id)
	return b, nil
}

// Write sends m in one Write, so that frames of several goroutines need only a mutex around it.
func Write(w io.Writer, id uint32, m Message) error {
	b, err := Append(nil, id, m)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// A Side is one end of the control stream.
type Side uint8

// The sides; each sends messages of its own kinds only.
const (
	Host Side = iota
	Guest
)

// Read receives a message that from sent. Its error is io.EOF when the stream ended between two messages.
func Read(r io.Reader, from Side) (id uint32, m Message, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	switch {
	case n < headerSize-4:
		return 0, nil, ErrMalformed
	case n > MaxMessage-4:
		return 0, nil, ErrTooLarge
	case h[4] != Version:
		return 0, nil, ErrVersion
	}
	if m = newMessage(Kind(h[5]), from); m == nil {
		return 0, nil, ErrMalformed
	}
	c := coder{b: make([]byte, n-(headerSize-4)), reading: true}
	if _, err := io.ReadFull(r, c.b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	m.code(&c)
	if c.err == nil && len(c.b) != 0 {
		c.err = ErrMalformed
	}
	if c.err != nil {
		return 0, nil, c.err
	}
	return binary.LittleEndian.Uint32(h[6:]), m, nil
}
