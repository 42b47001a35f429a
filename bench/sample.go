package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a run may take, by the test host's clock.
var patience = 30 * time.Second

// maxRepeats bounds how many runs of a subject are done again.
const maxRepeats = 5

var errSilent = errors.New("no HELLO in time")

// measure takes the subject's samples, then traces one more run.
func (s *Subject) measure(runs int) {
	err := s.again(func() error {
		_, err := once(s.Command) // the first one warms the page cache
		return err
	})
	for len(s.Samples) < runs && err == nil {
		err = s.again(func() error {
			sample, err := once(s.Command)
			if err == nil {
				s.Samples = append(s.Samples, sample)
				fmt.Fprintf(os.Stderr, "  %s %s\n", millions(sample.Hello), millions(sample.Exit))
			}
			return err
		})
	}
	if err == nil && s.Guest != nil {
		err = s.again(func() error {
			s.Guest, err = traced(s.Command)
			return err
		})
	}
	if err != nil {
		s.Error = err.Error()
		fmt.Fprintf(os.Stderr, "  %v\n", err)
	}
}

// again repeats what never came to HELLO, and counts it.
func (s *Subject) again(f func() error) error {
	for {
		err := f()
		if !errors.Is(err, errSilent) || s.Repeats == maxRepeats {
			return err
		}
		s.Repeats++
		fmt.Fprintf(os.Stderr, "%s: %v: once more\n", s.Name, err)
	}
}

// once runs a command and times HELLO on its standard output and its end.
func once(command []string) (Sample, error) { return observe(command, func() {}) }

// observe calls seen as soon as HELLO arrives.
func observe(command []string, seen func()) (Sample, error) {
	cmd := inRoot(command...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Sample{}, err
	}
	// A file, not a pipe: whoever reads a pipe is counted, too.
	messages, err := os.CreateTemp(rootDir+"/tmp", "bench")
	if err != nil {
		return Sample{}, err
	}
	defer os.Remove(messages.Name())
	defer messages.Close()
	cmd.Stderr = messages
	busy := busyTime()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Sample{}, err
	}
	timer := time.AfterFunc(patience, func() { killAll(cmd.Process.Pid, "bench") })
	var s Sample
	s.Hello = awaitHello(out, start, func() {
		s.HelloBusy = busyTime() - busy
		seen()
	})
	err = cmd.Wait()
	s.Exit = time.Since(start).Nanoseconds()
	s.ExitBusy = busyTime() - busy
	late := !timer.Stop()
	text, readErr := os.ReadFile(messages.Name())
	switch {
	case readErr != nil:
		return s, readErr
	case late:
		return s, fmt.Errorf("%w: %s", errSilent, text)
	case err != nil || s.Hello == 0:
		return s, fmt.Errorf("%s: no HELLO, or a failure (%v): %s", strings.Join(command, " "), err, text)
	}
	s.PeakRSS = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	s.Phases = parsePhases(string(text), start.UnixNano())
	return s, nil
}

// busyTime is for how long tasks have run since the test host's boot, in nanoseconds of all CPUs together.
func busyTime() int64 {
	b, err := os.ReadFile("/proc/schedstat")
	if err != nil {
		return 0
	}
	var sum int64
	for _, line := range strings.Split(string(b), "\n") {
		// cpu0, then nine numbers: the seventh is the time that tasks ran (sched-stats.txt).
		if f := strings.Fields(line); len(f) == 10 && strings.HasPrefix(f[0], "cpu") {
			n, _ := strconv.ParseInt(f[7], 10, 64)
			sum += n
		}
	}
	return sum
}

// awaitHello reads to the end and returns when HELLO arrived, 0 for never.
func awaitHello(r io.Reader, start time.Time, seen func()) (hello int64) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if hello == 0 && strings.Contains(line, "HELLO") {
			hello = time.Since(start).Nanoseconds()
			seen()
		}
		if err != nil {
			return hello
		}
	}
}

// killAll ends a run: the tool, what is in its process group, and govmm-run's monitor, which is in none of ours. While its guest
// boots a monitor is in nobody's records either, so it is looked for by the name that it was started by: in the test host
// there is no other.
func killAll(pid int, id string) {
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		b, _ := os.ReadFile(name)
		if monitor, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bytes.HasPrefix(b, []byte("govmm-monitor\x00")) {
			_ = syscall.Kill(monitor, syscall.SIGKILL)
		}
	}
	_ = inRoot("/govmm-run", "delete", "--force", id).Run()
}

// parsePhases reads the lines of --phases=lines, "phase NAME UNIXNANO". Only what comes behind the start is believed.
func parsePhases(text string, start int64) []Phase {
	var phases []Phase
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "phase" {
			continue
		}
		if at, err := strconv.ParseInt(f[2], 10, 64); err == nil && at >= start {
			phases = append(phases, Phase{f[1], at - start})
		}
	}
	return phases
}
