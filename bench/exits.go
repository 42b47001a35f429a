package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// traceDir is the host kernel's tracefs.
const traceDir = "/sys/kernel/tracing/"

// Where the interval that is looked at begins and ends, as marks in the trace.
const (
	markBegin = "bench: fork"
	markEnd   = "bench: HELLO"
)

// traced runs a command once more with the host kernel's KVM events recorded, which cost time of their own: the sums over
// guest mode are hardly touched by it, the run's own times are not used.
func traced(command []string) (*Guest, error) {
	for _, w := range [][2]string{
		{"buffer_size_kb", "32768"}, {"trace_clock", "mono"}, {"trace", ""},
		{"events/kvm/kvm_entry/enable", "1"}, {"events/kvm/kvm_exit/enable", "1"}, {"events/kvm/kvm_userspace_exit/enable", "1"},
	} {
		if err := os.WriteFile(traceDir+w[0], []byte(w[1]), 0o644); err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
	}
	defer func() { _ = os.WriteFile(traceDir+"events/kvm/enable", []byte("0"), 0o644) }()
	marker, err := os.OpenFile(traceDir+"trace_marker", os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer marker.Close()
	mark := func(text string) { _, _ = marker.WriteString(text + "\n") }
	mark(markBegin)
	if _, err := observe(command, func() { mark(markEnd) }); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(traceDir + "trace")
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return parseTrace(string(b))
}

// parseTrace adds up the events between the marks. A line is
//
//	qemu-149     [000] d..1.     4.133839: kvm_entry: vcpu 0, rip 0xffffffff817646f1
func parseTrace(text string) (*Guest, error) {
	g := &Guest{Exits: map[string]int{}, User: map[string]int{}}
	entered := map[string]int64{} // by thread: when it went to guest mode
	inside := false
	for _, line := range strings.Split(text, "\n") {
		thread, at, event, rest, ok := parseEvent(line)
		switch {
		case !ok:
		case strings.Contains(rest, markBegin):
			inside = true
		case !inside:
		case strings.Contains(rest, markEnd):
			return g, nil
		case event == "kvm_entry":
			entered[thread] = at
		case event == "kvm_exit":
			if since, ok := entered[thread]; ok {
				g.Inside += at - since
				delete(entered, thread)
			}
			g.Exits[word(rest, "reason")]++
		case event == "kvm_userspace_exit":
			g.User[strings.TrimPrefix(word(rest, "reason"), "KVM_EXIT_")]++
		}
	}
	return nil, fmt.Errorf("trace: it does not hold the whole interval")
}

// parseEvent splits a line of a trace; the time is in nanoseconds.
func parseEvent(line string) (thread string, at int64, event, rest string, ok bool) {
	head, tail, found := strings.Cut(line, ": ")
	f := strings.Fields(head)
	if !found || strings.HasPrefix(line, "#") || len(f) < 3 {
		return "", 0, "", "", false
	}
	seconds, err := strconv.ParseFloat(f[len(f)-1], 64)
	if err != nil {
		return "", 0, "", "", false
	}
	event, rest, _ = strings.Cut(tail, ": ")
	return f[0], int64(seconds * 1e9), event, rest, true
}

// word returns the word behind key.
func word(text, key string) string {
	f := strings.Fields(text)
	for i := range f {
		if f[i] == key && i+1 < len(f) {
			return f[i+1]
		}
	}
	return "unknown"
}
