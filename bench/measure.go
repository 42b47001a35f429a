package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sample is one run: nanoseconds from fork of the tool, and peak resident memory in KiB.
type Sample struct {
	Hello, Exit int64
	PeakRSS     int64
	Phases      []Phase `json:",omitempty"`
}

// Phase is one line of govmm-run's own account of a start: when it ended, in nanoseconds since the fork of the tool.
type Phase struct {
	Name string
	End  int64
}

// Subject is one tool's samples.
type Subject struct {
	Group, Name, Command string
	Error                string `json:",omitempty"`
	Samples              []Sample
}

// Memory is a running monitor's proportional set size in KiB.
type Memory struct {
	PSS, GuestRAM int64
}

// Result is everything of one boot of the test host.
type Result struct {
	Subjects []Subject
	Memory   Memory
}

const (
	bareCmdline = "console=ttyS0 panic=-1 reboot=k loglevel=4"
	groupVM     = "bare guest: fork to HELLO on stdout, fork to exit"
	groupRun    = "busybox container: fork to HELLO on stdout, fork to exit"
)

// measure runs every subject on files in a tmpfs and prints the result as JSON.
func measure(from string, runs int) error {
	dir := "/dev/shm/bench"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []string{"vmlinux", "initrd.cpio", "govmm", "govmm-run"} {
		if err := copyFile(filepath.Join(from, f), filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	if err := bundle(dir); err != nil {
		return err
	}
	var r Result
	for _, s := range subjects(dir) {
		fmt.Fprintln(os.Stderr, "measuring", s.Name)
		sampleAll(&s, runs)
		r.Subjects = append(r.Subjects, s)
	}
	var err error
	if r.Memory, err = memory(dir); err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func subjects(dir string) []Subject {
	kernel, initrd := dir+"/vmlinux", dir+"/initrd.cpio"
	return []Subject{
		{Group: groupVM, Name: "govmm boot", Command: dir + "/govmm boot --kernel " + kernel + " --initrd " + initrd + " --memory 128M --cmdline '" + bareCmdline + "'"},
		{Group: groupVM, Name: "QEMU microvm", Command: "qemu-system-x86_64 -M microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off -cpu host -smp 1 -m 128 " +
			"-nographic -nodefaults -serial stdio -no-reboot -kernel " + kernel + " -initrd " + initrd + " -append '" + strings.Replace(bareCmdline, "reboot=k", "reboot=t", 1) + "'"},
		{Group: groupRun, Name: "govmm-run", Command: dir + "/govmm-run run --phases --bundle " + dir + "/bundle bench"},
		{Group: groupRun, Name: "crun", Command: "crun --cgroup-manager=disabled run --bundle " + dir + "/bundle bench"},
		{Group: groupRun, Name: "runc", Command: "runc run --bundle " + dir + "/bundle bench"},
	}
}

func sampleAll(s *Subject, runs int) {
	for i := range runs + 1 {
		sample, err := once(s.Command)
		if err != nil {
			s.Error = err.Error()
			return
		}
		if i > 0 { // the first one warms the page cache
			s.Samples = append(s.Samples, sample)
		}
	}
}

// once runs a command with exec's shell quoting and times HELLO on its standard output and its end.
func once(command string) (Sample, error) {
	cmd := exec.Command("/bin/sh", "-c", "exec "+command)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Sample{}, err
	}
	var errOut strings.Builder
	cmd.Stderr = &errOut
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Sample{}, err
	}
	timer := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var s Sample
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if s.Hello == 0 && strings.Contains(line, "HELLO") {
			s.Hello = time.Since(start).Nanoseconds()
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	s.Exit = time.Since(start).Nanoseconds()
	if s.Hello == 0 {
		return s, fmt.Errorf("%s: no HELLO (%v): %s", command, err, errOut.String())
	}
	s.PeakRSS = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	s.Phases = parsePhases(errOut.String(), start)
	return s, nil
}

// parsePhases reads "phase NAME UNIXNANO" lines of --phases' machine-readable part.
func parsePhases(text string, start time.Time) []Phase {
	var phases []Phase
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "phase" {
			continue
		}
		if at, err := strconv.ParseInt(f[2], 10, 64); err == nil {
			phases = append(phases, Phase{f[1], at - start.UnixNano()})
		}
	}
	return phases
}

// bundle makes a busybox bundle that prints HELLO, for every runtime.
func bundle(dir string) error {
	root := filepath.Join(dir, "bundle/rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(busybox, filepath.Join(root, "bin/busybox")); err != nil {
		return err
	}
	if b, err := exec.Command(dir+"/govmm-run", "spec", "--bundle", dir+"/bundle").CombinedOutput(); err != nil {
		return fmt.Errorf("spec: %s", b)
	}
	path := filepath.Join(dir, "bundle/config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.Replace(string(b), `"terminal": true`, `"terminal": false`, 1)
	text = strings.Replace(text, `"sh"`, `"/bin/busybox", "echo", "HELLO"`, 1)
	return os.WriteFile(path, []byte(text), 0o644)
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// memory starts a container that sleeps and reads what its monitor holds.
func memory(dir string) (Memory, error) {
	b, err := os.ReadFile(dir + "/bundle/config.json")
	if err != nil {
		return Memory{}, err
	}
	text := strings.Replace(string(b), `"/bin/busybox", "echo", "HELLO"`, `"/bin/busybox", "sleep", "1000"`, 1)
	if err := os.WriteFile(dir+"/bundle/config.json", []byte(text), 0o644); err != nil {
		return Memory{}, err
	}
	tool := dir + "/govmm-run"
	if b, err := exec.Command(tool, "run", "--detach", "--pid-file", dir+"/pid", "--bundle", dir+"/bundle", "mem").CombinedOutput(); err != nil {
		return Memory{}, fmt.Errorf("run: %s", b)
	}
	defer func() { _ = exec.Command(tool, "delete", "--force", "mem").Run() }()
	pid, err := os.ReadFile(dir + "/pid")
	if err != nil {
		return Memory{}, err
	}
	return pss(string(pid))
}

// pss adds up the proportional set sizes; the mapping that is largest is the guest's RAM.
func pss(pid string) (Memory, error) {
	b, err := os.ReadFile("/proc/" + pid + "/smaps")
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	var size, largest int64
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Size:":
			size = n
		case "Pss:":
			m.PSS += n
			if size > largest {
				largest, m.GuestRAM = size, n
			}
		}
	}
	if m.PSS == 0 {
		return m, errors.New("no mappings")
	}
	return m, nil
}
