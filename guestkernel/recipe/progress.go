package recipe

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A progress counts make's lines and shows how far the build is: as one line
// that is rewritten on a terminal, as a line now and then elsewhere.
type progress struct {
	w        io.Writer
	name     string
	total    int
	start    time.Time
	terminal bool
	done     int
	shown    time.Time
	partial  []byte
	now      func() time.Time
}

// Enough to see that it lives, few enough for a log.
const (
	terminalInterval = 200 * time.Millisecond
	logInterval      = 15 * time.Second
)

func newProgress(w io.Writer, name string, total int, start time.Time) *progress {
	return &progress{w: w, name: name, total: total, start: start, terminal: isTerminal(w), now: time.Now}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Write takes make's output; each line stands for one file built.
func (p *progress) Write(b []byte) (int, error) {
	p.partial = append(p.partial, b...)
	for {
		i := bytes.IndexByte(p.partial, '\n')
		if i < 0 {
			return len(b), nil
		}
		if bytes.HasPrefix(p.partial, []byte("  ")) {
			p.done++
		}
		p.partial = p.partial[i+1:]
		p.show()
	}
}

func (p *progress) show() {
	interval := logInterval
	if p.terminal {
		interval = terminalInterval
	}
	now := p.now()
	if now.Sub(p.shown) < interval {
		return
	}
	p.shown = now
	p.print(now)
}

func (p *progress) print(now time.Time) {
	// The total is an estimate; it must not look finished before it is.
	percent := min(99, p.done*100/max(1, p.total))
	line := fmt.Sprintf("guest kernel (%s): %d of about %d files, %d%%, %s", p.name, p.done, max(p.total, p.done+1), percent, now.Sub(p.start).Round(time.Second))
	if p.terminal {
		fmt.Fprintf(p.w, "\r\033[K%s", line)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// finish ends the line on a terminal.
func (p *progress) finish() {
	if p.terminal && p.done > 0 {
		fmt.Fprint(p.w, "\r\033[K")
	}
	if p.done > 0 {
		fmt.Fprintf(p.w, "guest kernel (%s): %d files, %s\n", p.name, p.done, p.now().Sub(p.start).Round(time.Second))
	}
}
