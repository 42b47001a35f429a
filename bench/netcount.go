package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Counts is what the host's kernel did for a VM in an interval, by its own tracepoints: the same for every monitor.
type Counts struct {
	Exits    map[string]int64 // from guest mode, by hardware reason
	User     int64            // exits that went on to the monitor
	Kicks    int64            // the guest told a device of buffers
	MMIO     int64            // all accesses to devices' registers, kicks included
	IRQs     int64            // interrupts that were raised
	Syscalls map[string]int64 // of the monitor's process, by their numbers
}

// histograms are the tracepoints that are counted, and by which of their fields. The kernel counts in place (Documentation/trace/histogram.rst);
// no event is written down.
var histograms = map[string]string{
	"kvm/kvm_exit":           "exit_reason",
	"kvm/kvm_userspace_exit": "reason",
	"kvm/kvm_mmio":           "type,gpa",
	"kvm/kvm_set_irq":        "level",
	"raw_syscalls/sys_enter": "common_pid,id",
}

// counting is an interval that has begun.
type counting struct{}

func startCounting() (*counting, error) {
	for event, keys := range histograms {
		if err := trigger(event, "hist:keys="+keys+":size=4096"); err != nil {
			return nil, err
		}
	}
	return &counting{}, nil
}

func trigger(event, text string) error {
	f, err := os.OpenFile(traceDir+"events/"+event+"/trigger", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(text + "\n"); err != nil {
		return fmt.Errorf("trace: %s: %w", event, err)
	}
	return nil
}

// stop ends the interval. The system calls are those of the threads of a process.
func (c *counting) stop(pid int) (*Counts, error) {
	found := map[string][]bin{}
	for event, keys := range histograms {
		if err := trigger(event, "hist:keys="+keys+":size=4096:pause"); err != nil {
			return nil, err
		}
	}
	for event, keys := range histograms {
		b, err := os.ReadFile(traceDir + "events/" + event + "/hist")
		if err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
		found[event] = parseHistogram(string(b))
		if err := trigger(event, "!hist:keys="+keys); err != nil {
			return nil, err
		}
	}
	return count(found, threads(pid)), nil
}

// A bin is one line of a histogram.
type bin struct {
	keys map[string]string
	hits int64
}

var (
	binLine = regexp.MustCompile(`^\{ (.*) \} hitcount: +(\d+)`)
	binKey  = regexp.MustCompile(`([a-z_]+): *([^,]+?)(?: *,|\s*$)`)
)

// parseHistogram reads lines such as
//
//	{ type:          2, gpa: 4276093008 } hitcount:       3051
func parseHistogram(text string) (out []bin) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		m := binLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		b := bin{keys: map[string]string{}}
		b.hits, _ = strconv.ParseInt(m[2], 10, 64)
		for _, k := range binKey.FindAllStringSubmatch(m[1], -1) {
			b.keys[k[1]] = strings.TrimSpace(k[2])
		}
		out = append(out, b)
	}
	return out
}

// Of tracepoint kvm_mmio, and of virtio-mmio's registers (virtio 1.2 §4.2.2). Windows begin at multiples of 512, QEMU's smallest.
const (
	mmioWrite   = "2"
	windowMask  = 0x1ff
	queueNotify = 0x50
)

func count(found map[string][]bin, tids map[string]bool) *Counts {
	c := &Counts{Exits: map[string]int64{}, Syscalls: map[string]int64{}}
	for _, b := range found["kvm/kvm_exit"] {
		c.Exits[b.keys["exit_reason"]] += b.hits
	}
	for _, b := range found["kvm/kvm_userspace_exit"] {
		c.User += b.hits
	}
	for _, b := range found["kvm/kvm_mmio"] {
		gpa, _ := strconv.ParseUint(b.keys["gpa"], 0, 64)
		c.MMIO += b.hits
		if b.keys["type"] == mmioWrite && gpa&windowMask == queueNotify {
			c.Kicks += b.hits
		}
	}
	for _, b := range found["kvm/kvm_set_irq"] {
		if b.keys["level"] != "0" {
			c.IRQs += b.hits
		}
	}
	for _, b := range found["raw_syscalls/sys_enter"] {
		if tids[b.keys["common_pid"]] {
			c.Syscalls[b.keys["id"]] += b.hits
		}
	}
	return c
}

// threads lists a process's threads.
func threads(pid int) map[string]bool {
	out := map[string]bool{}
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, n := range names {
		out[filepath.Base(n)] = true
	}
	return out
}

// monitorOf is the process that serves the VM of a command: itself, or the monitor that govmm-run has started.
func monitorOf(pid int) int {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if b, _ := os.ReadFile(name); strings.TrimSpace(string(b)) == "govmm-monitor" {
			if n, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				return n
			}
		}
	}
	return pid
}
