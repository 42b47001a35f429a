package main

import (
	"io"
	"sync"
	"sync/atomic"
)

// replayLimit bounds how much input is kept for a second run of the command.
const replayLimit = 8 << 20

// input is the runner's stdin with a memory: after a hang the command gets
// the same input again.
type input struct {
	r       io.Reader
	dropped atomic.Bool // input is longer than replayLimit

	mu    sync.Mutex
	saved []byte
	start int64 // offset of saved[0]
	err   error
}

// readAt returns what follows offset off, reading when nothing is saved. A
// caller that waits in the read holds up the others, which is right: what it
// reads belongs to them.
func (in *input) readAt(off int64, buf []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if off < in.start {
		return 0, io.ErrNoProgress
	}
	if rest := in.saved[min(off-in.start, int64(len(in.saved))):]; len(rest) > 0 {
		return copy(buf, rest), nil
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(buf)
	in.err = err
	in.saved = append(in.saved, buf[:n]...)
	if len(in.saved) > replayLimit {
		in.dropped.Store(true)
		in.start += int64(len(in.saved))
		in.saved = nil
	}
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// replayable reports whether all input so far can be given again.
func (in *input) replayable() bool { return !in.dropped.Load() }
