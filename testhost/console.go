package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
)

// How much of the serial console a report shows: the last lines, or those
// around a panic, whose end is the least interesting part.
const (
	consoleLines = 40
	beforePanic  = 15
)

// console follows the serial console line by line: what is buffered when a
// host hangs is just what one wants to see.
type console struct {
	mu       sync.Mutex
	lines    []string
	panicked string // the reason of the kernel's panic
	done     chan struct{}
}

// follow copies r to the logs (nil ones are left out) until it ends.
func follow(r io.Reader, logs ...io.Writer) *console {
	c := &console{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		in := bufio.NewReader(r)
		for {
			line, err := in.ReadString('\n')
			if line = strings.TrimRight(line, "\r\n"); line != "" || err == nil {
				c.add(line)
				for _, w := range logs {
					fmt.Fprintln(w, line)
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *console) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lines) == consoleLines {
		if c.panicked != "" {
			return
		}
		c.lines = append(c.lines[:0], c.lines[1:]...)
	}
	c.lines = append(c.lines, line)
	if _, reason, ok := strings.Cut(line, "Kernel panic - not syncing: "); ok && c.panicked == "" {
		c.panicked = reason
		c.lines = c.lines[max(0, len(c.lines)-beforePanic):]
	}
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n")
}

// panicReason returns the reason of the kernel's panic, or "".
func (c *console) panicReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.panicked
}

// isLockup tells panics in which the host stood still, which TCG itself
// causes now and then, from those that somebody caused.
func isLockup(reason string) bool { return strings.Contains(reason, "softlockup") }
