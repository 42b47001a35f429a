package monitor

import (
	"io"
	"net"
	"os"
	"sync"
)

// drain copies one output stream of a process to the host and counts: a child of the process may hold the stream open
// when the process has ended, but what the process itself wrote must have arrived before its end is reported.
type drain struct {
	mu       sync.Mutex
	n        uint64 // bytes that were written out
	ended    bool
	progress chan struct{} // closed and replaced at every change
}

// start begins to copy the stream that wait returns to out.
func (d *drain) start(wait func() (net.Conn, error), out *os.File) {
	go func() {
		defer d.finish()
		stream, err := wait()
		if err != nil {
			return
		}
		defer stream.Close() // the guest's writer gets EPIPE when out is gone
		d.copy(out, stream)
	}()
}

func (d *drain) copy(out io.Writer, stream net.Conn) {
	buf := make([]byte, copySize)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
			d.change(func() { d.n += uint64(n) })
		}
		if err != nil {
			return
		}
	}
}

func (d *drain) finish() { d.change(func() { d.ended = true }) }

func (d *drain) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	if d.progress != nil {
		close(d.progress)
		d.progress = nil
	}
}

// await waits until n bytes were written out or the stream has ended.
func (d *drain) await(n uint64) {
	for {
		d.mu.Lock()
		if d.ended || d.n >= n {
			d.mu.Unlock()
			return
		}
		if d.progress == nil {
			d.progress = make(chan struct{})
		}
		wait := d.progress
		d.mu.Unlock()
		<-wait
	}
}
