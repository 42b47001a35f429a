package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// runner runs the command, again in a fresh host if one dies under it.
type runner struct {
	opts    *options
	log     io.Writer
	input   *input
	signals chan os.Signal
	files   bootFiles
}

func (r *runner) run() (int, error) {
	if os.Geteuid() != 0 {
		return statusFailure, errors.New("the test host needs root (its virtiofsd shares the whole machine)")
	}
	if err := r.prepare(); err != nil {
		return statusFailure, err
	}
	r.signals = make(chan os.Signal, 8)
	signal.Notify(r.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH)
	r.input = &input{r: os.Stdin}
	restore := func() {}
	if r.opts.tty {
		restore = rawTerminal(os.Stdin)
	}
	defer restore()
	for repeats := 0; ; repeats++ {
		status, err := r.attempt()
		died := errors.Is(err, errHung) || errors.Is(err, errPanic)
		if died {
			fmt.Fprintf(r.log, "testhost: %v\ntesthost: the command was: %s\n", err, r.opts.shown)
		}
		if died && repeats < r.opts.repeats {
			if err = r.repeatable(); err == nil {
				fmt.Fprintln(r.log, "testhost: repeating the command in a fresh host")
				continue
			}
		}
		if repeats > 0 {
			fmt.Fprintf(r.log, "testhost: repeats after the host died: %d\n", repeats)
		}
		return status, err
	}
}

// repeatable says why the command cannot be given again.
func (r *runner) repeatable() error {
	switch {
	case r.opts.tty:
		return errors.New("not repeated: the command is interactive")
	case !r.input.replayable():
		return errors.New("not repeated: it has read too much input to give it again")
	}
	return nil
}

func (r *runner) prepare() (err error) {
	if err := ensureTools(r.log); err != nil {
		return err
	}
	if r.files.cache, err = cacheDir(); err != nil {
		return err
	}
	if r.files.qemu, err = ensureEmulator(r.files.cache, r.log); err != nil {
		return err
	}
	if r.files.qemu, err = mendEmulator(r.files.cache, r.files.qemu, r.log); err != nil {
		return err
	}
	if r.files.kernel, err = ensureKernel(r.files.cache, r.log); err != nil {
		return err
	}
	r.files.initramfs, err = buildInitramfs(r.files.kernel)
	return err
}

// attempt runs the command in a fresh host.
func (r *runner) attempt() (int, error) {
	var logs []io.Writer
	if r.opts.logFile != "" {
		f, err := os.OpenFile(r.opts.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return statusFailure, err
		}
		defer f.Close()
		logs = append(logs, f)
	}
	if r.opts.verbose {
		logs = append(logs, r.log)
	}
	h, err := boot(r.opts, r.files, logs...)
	if err != nil {
		return statusFailure, err
	}
	defer h.close()
	s := newSession(r, h)
	status, err := s.run()
	if errors.Is(err, errHung) {
		r.keepEvidence(h)
	}
	return status, err
}

// keepEvidence saves where the host stood.
func (r *runner) keepEvidence(h *host) {
	dir := filepath.Join(r.files.cache, "hangs", fmt.Sprintf("%s-%d", time.Now().UTC().Format("20060102-150405"), os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintf(r.log, "testhost: %v\n", err)
		return
	}
	regs, err := registers(h.qmp, r.opts.smp)
	if err != nil {
		regs += err.Error() + "\n"
	}
	for name, text := range map[string]string{
		"registers": regs, "console": h.console.tail() + "\n", "command": r.opts.shown + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			fmt.Fprintf(r.log, "testhost: %v\n", err)
		}
	}
	fmt.Fprintf(r.log, "testhost: registers, console, and command are in %s\n", dir)
}
