package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/govmm/govmm/testhost/wire"
)

// Times of a session, all in wall clock.
const (
	pingInterval = 2 * time.Second
	// icountPing is rarer: each ping costs instructions that are counted.
	icountPing = 10 * time.Second
	// bootTime is for a machine that is busy with other things; 4-7 s are usual.
	bootTime = 3 * time.Minute
	// signalGrace is how long a command has to end after a signal.
	signalGrace = 5 * time.Second
	byeTime     = 15 * time.Second
)

// frame is a control frame that the session's goroutine handles.
type frame struct {
	kind    wire.Type
	payload []byte
}

// session is one command in one host.
type session struct {
	*runner
	host    *host
	frames  chan frame
	exit    chan wire.ExitInfo
	running bool
	unheard int // pings since the last frame from the guest
	status  int // of a signal that came from outside, 0 if none
	stopAt  <-chan time.Time
	stop    chan struct{} // closed at the end
}

func newSession(r *runner, h *host) *session {
	return &session{
		runner: r, host: h,
		frames: make(chan frame, 16),
		exit:   make(chan wire.ExitInfo, 1),
		stop:   make(chan struct{}),
	}
}

// run returns the command's status once it has ended.
func (s *session) run() (int, error) {
	defer close(s.stop)
	go s.readControl()
	go s.readStream()
	interval := pingInterval
	if s.opts.icount {
		interval = icountPing
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	var timeout <-chan time.Time
	if s.opts.timeout > 0 {
		timeout = time.After(s.opts.timeout)
	}
	for {
		select {
		case info := <-s.exit:
			return s.finish(info)
		case <-s.host.qemu.done:
			return statusFailure, s.host.died()
		case f := <-s.frames:
			if err := s.handle(f); err != nil {
				return statusFailure, err
			}
		case <-ticks.C:
			if err := s.heartbeat(interval); err != nil {
				return statusFailure, err
			}
		case sig := <-s.signals:
			if !s.forward(sig.(syscall.Signal)) {
				return s.status, nil
			}
		case <-s.stopAt:
			return s.status, nil
		case <-timeout:
			return statusTimeout, fmt.Errorf("--timeout %v is over: %s", s.opts.timeout, s.opts.shown)
		}
	}
}

func (s *session) readControl() {
	in := wire.NewReader(s.host.control)
	for {
		t, payload, err := in.Next()
		if err != nil {
			return
		}
		select {
		case s.frames <- frame{t, append([]byte(nil), payload...)}:
		case <-s.stop:
			return
		}
	}
}

// readStream writes output as it comes; only its own port waits for a slow
// reader.
func (s *session) readStream() {
	in := wire.NewReader(s.host.stream)
	for {
		t, payload, err := in.Next()
		if err != nil {
			return
		}
		switch t {
		case wire.Stdout:
			_, err = os.Stdout.Write(payload)
		case wire.Stderr:
			_, err = os.Stderr.Write(payload)
		case wire.Exit:
			var info wire.ExitInfo
			if err := json.Unmarshal(payload, &info); err != nil {
				info = wire.ExitInfo{Status: statusFailure, Err: err.Error()}
			}
			s.exit <- info
			return
		}
		if err != nil {
			s.exit <- wire.ExitInfo{Status: statusFailure, Err: err.Error()}
			return
		}
	}
}

func (s *session) handle(f frame) error {
	s.unheard = 0
	switch f.kind {
	case wire.Ready:
		var info wire.ReadyInfo
		if err := json.Unmarshal(f.payload, &info); err != nil {
			return fmt.Errorf("ready frame: %w", err)
		}
		return s.ready(info)
	case wire.Log:
		fmt.Fprintf(s.log, "testhost: %s\n", f.payload)
	}
	return nil
}

// ready starts the command.
func (s *session) ready(info wire.ReadyInfo) error {
	for _, w := range info.Warnings {
		fmt.Fprintf(s.log, "testhost: warning: %s\n", w)
	}
	if s.opts.verbose {
		fmt.Fprintf(s.log, "testhost: up after %v (its kernel counts %v)\n",
			time.Since(s.host.started).Round(time.Millisecond), time.Duration(info.UptimeMillis)*time.Millisecond)
	}
	st := wire.Start{
		Argv: s.opts.argv, Env: s.opts.env, Dir: s.opts.dir, TTY: s.opts.tty,
		Hostname: "testhost", Writable: s.opts.writable, UnixNano: time.Now().UnixNano(),
	}
	st.Rows, st.Cols = windowSize(os.Stdin)
	s.running = true
	if err := s.host.controlWriter.JSON(wire.StartCommand, st); err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	go s.sendInput()
	return nil
}

func (s *session) sendInput() {
	buf := make([]byte, 32<<10)
	for off := int64(0); ; {
		n, err := s.input.readAt(off, buf)
		if n > 0 && s.host.streamWriter.Frame(wire.Stdin, buf[:n]) != nil {
			return
		}
		off += int64(n)
		if err != nil {
			_ = s.host.streamWriter.Frame(wire.Stdin, nil)
			return
		}
	}
}

// heartbeat counts pings, not time: a machine that was suspended has missed
// none.
func (s *session) heartbeat(interval time.Duration) error {
	limit := s.opts.hang
	if !s.running {
		limit = max(limit, bootTime)
	}
	if silent := time.Duration(s.unheard) * interval; silent >= limit {
		if !s.running {
			return fmt.Errorf("%w: not up after %v; last lines of its console:\n%s", errHung, silent, s.host.console.tail())
		}
		return fmt.Errorf("%w: no heartbeat for %v", errHung, silent)
	}
	s.unheard++
	if !s.running {
		return nil
	}
	// A full port must not stop this goroutine; the next tick counts it.
	_ = s.host.control.SetWriteDeadline(time.Now().Add(interval / 2))
	if err := s.host.controlWriter.Frame(wire.Ping, nil); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // QEMU's end tells more
	}
	return nil
}

// forward hands a signal to the command. It reports false when the host is to
// be ended at once: before the command runs, and at the second signal.
func (s *session) forward(sig syscall.Signal) bool {
	if sig == syscall.SIGWINCH {
		if rows, cols := windowSize(os.Stdin); rows > 0 && s.running {
			_ = s.host.controlWriter.JSON(wire.Winsize, wire.WinsizeInfo{Rows: rows, Cols: cols})
		}
		return true
	}
	second := s.status != 0
	s.status = 128 + int(sig)
	if second || !s.running {
		return false
	}
	s.stopAt = time.After(signalGrace)
	return s.host.controlWriter.JSON(wire.Signal, wire.SignalInfo{Number: int(sig)}) == nil
}

// finish ends the session after the command.
func (s *session) finish(info wire.ExitInfo) (int, error) {
	if s.opts.verbose {
		fmt.Fprintf(s.log, "testhost: command ended after %v with status %d\n",
			time.Since(s.host.started).Round(time.Millisecond), info.Status)
	}
	if s.opts.keepScratch {
		s.sayBye()
	}
	if info.Err != "" {
		return info.Status, errors.New(info.Err)
	}
	return info.Status, nil
}

// sayBye waits until the scratch disk is unmounted.
func (s *session) sayBye() {
	deadline := time.After(byeTime)
	if s.host.controlWriter.Frame(wire.Bye, nil) != nil {
		return
	}
	for {
		select {
		case f := <-s.frames:
			if f.kind == wire.Bye {
				return
			}
		case <-s.host.qemu.done:
			return
		case <-deadline:
			fmt.Fprintln(s.log, "testhost: the scratch disk was not unmounted: its journal will be replayed")
			return
		}
	}
}
