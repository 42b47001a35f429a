package vsock

// ring is a FIFO of bytes that grows on demand, by doubling. The zero value is empty.
type ring struct {
	buf  []byte
	head int // of the first byte
	n    int // bytes in it
}

// ringStart is the first size of a ring's buffer, in bytes.
const ringStart = 4096

// write appends the buffers; the caller bounds what is in the ring.
func (r *ring) write(buffers [][]byte, total int) {
	r.reserve(total)
	for _, b := range buffers {
		b = b[:min(len(b), total)]
		total -= len(b)
		tail := (r.head + r.n) & (len(r.buf) - 1)
		k := copy(r.buf[tail:], b)
		copy(r.buf, b[k:])
		r.n += len(b)
		if total == 0 {
			return
		}
	}
}

// reserve makes room for n more bytes.
func (r *ring) reserve(n int) {
	if r.n+n <= len(r.buf) {
		return
	}
	size := max(len(r.buf), ringStart)
	for size < r.n+n {
		size *= 2
	}
	buf := make([]byte, size)
	first, second := r.parts()
	copy(buf[copy(buf, first):], second)
	r.buf, r.head = buf, 0
}

// parts returns what is in the ring, in order.
func (r *ring) parts() (first, second []byte) {
	end := r.head + r.n
	if end <= len(r.buf) {
		return r.buf[r.head:end], nil
	}
	return r.buf[r.head:], r.buf[:end-len(r.buf)]
}

// read takes bytes out of the ring.
func (r *ring) read(p []byte) int {
	first, second := r.parts()
	n := copy(p, first)
	n += copy(p[n:], second)
	r.discard(n)
	return n
}

// discard drops the first n bytes.
func (r *ring) discard(n int) {
	r.n -= n
	r.head += n
	if r.head >= len(r.buf) {
		r.head -= len(r.buf)
	}
	if r.n == 0 {
		r.head = 0
	}
}
