package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/terminal"
	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/vmm/vmmtest"
)

// asGovmm makes the test binary the program itself.
const asGovmm = "GOVMM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asGovmm) != "" {
		main()
		return
	}
	m.Run()
}

// govmm returns a call of the program.
func govmm(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asGovmm+"=1")
	return cmd
}

// write makes a file and returns its path.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tiny is the path of a kernel of a few instructions.
func tiny(t *testing.T, code []byte) string {
	t.Helper()
	i := vmmtest.Kernel(code)
	data := make([]byte, i.Size)
	if _, err := i.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return write(t, "kernel", data)
}

// TestCoarseTimers: every thread has them.
func TestCoarseTimers(t *testing.T) {
	need.Root(t) // it takes CAP_SYS_NICE
	coarseTimers()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		if b, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns"); err != nil || string(b) != "1000000\n" {
			t.Errorf("thread %s: %q, %v", thread.Name(), b, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"4096": 4096, "1k": 1024, "256M": 256 << 20, "1G": 1 << 30, "3g": 3 << 30, "2T": 2 << 40, "8388607T": 8388607 << 40,
		"": 0, "0": 0, "0M": 0, "M": 0, "-1": 0, "1.5G": 0, "1 G": 0, "1GG": 0, "1X": 0, "12KB": 0, "0x10": 0,
		"8388609T": 0, "18446744073709551615K": 0, "99999999999999999999": 0,
	} {
		got, err := parseSize(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("parseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "such as 512M") {
			t.Errorf("parseSize(%q): %v", in, err)
		}
	}
}

// bzImage is a setup header without what it promises.
func bzImage() []byte {
	b := make([]byte, 2048)
	b[0x1f1] = 3
	copy(b[0x1fe:], "\x55\xaa\xeb\x6a"+"HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x1f4:], 1<<20)
	return b
}

func TestErrors(t *testing.T) {
	kernel := tiny(t, vmmtest.Reset)
	missing := filepath.Join(t.TempDir(), "missing")
	empty := write(t, "empty", nil)
	for _, c := range []struct {
		args string
		kvm  bool // the error comes from a VM's set-up
		says string
	}{
		{"--kernel " + missing, false, "govmm: --kernel: open " + missing + ": no such file or directory"},
		{"--kernel " + t.TempDir(), false, "not a regular file"},
		{"--kernel " + kernel + " --initrd " + missing, false, "--initrd: open " + missing},
		{"--kernel " + kernel + " --memory 12x", false, `--memory: "12x" is not a size: write a number and K, M or G`},
		{"--kernel " + kernel + " --memory 0", false, `--memory: "0" is not a size`},
		{"--kernel " + kernel + " --cpus 0", false, "--cpus 0: at least 1 is needed"},
		{"--kernel " + kernel + " --cpus -3", false, "--cpus -3: at least 1"},
		{"--kernel " + kernel + " --cpus two", false, `invalid argument "two" for "--cpus"`},
		{"--kernel " + kernel + " --disk " + missing, false, "--disk " + missing},
		{"--kernel " + kernel + " --disk " + missing + ",ro", false, "no such file or directory"},
		{"--kernel " + kernel + " --net bridge=br0", false, "--net bridge=br0: write tap=NAME[,mac=ADDRESS]"},
		{"--kernel " + kernel + " --net tap=t,queues=many", false, "queues=many: between 1 and 64"},
		{"--kernel " + kernel + " --disk disk,ops=0", false, `--disk disk,ops=0: "0" is not a rate`},
		{"--kernel " + kernel + " --fs src=" + missing, false, "--fs src=" + missing + ": stat " + missing + ": no such file or directory"},
		{"--kernel " + kernel + " --fs " + missing, false, "write TAG=DIR"},
		{"--kernel " + kernel + " --fs src=" + kernel, false, "is not a directory"},
		{"--kernel " + kernel + " --vsock " + missing + "/sock", false, "--vsock: " + missing + "/sock: "},
		{"--kernel " + kernel + " --firmware bios", false, `--firmware: "bios": use mptable, acpi or auto`},
		{"--kernel " + kernel + " --protocol efi", false, `--protocol: "efi": use linux64, pvh or auto`},
		{"--kernel " + kernel + " more", false, "unknown command"},
		{"--kernal " + kernel, false, "unknown flag: --kernal"},
		{"--kernel " + kernel + " --cpus 300", false, "300 CPUs: between 1 and 254 are possible"},
		{"--kernel " + kernel + " --max-memory x", false, `--max-memory: "x" is not a size`},
		{"--kernel " + kernel + " --memory 1G --max-memory 1023M", false, "--max-memory 1023M is less than --memory 1G"},
		{"--kernel " + kernel + " --memory 1M", false, "memory of 1048576 bytes: at least 8 MiB"},
		{"--kernel " + empty, true, "kernel: the file is empty"},
		{"--kernel " + write(t, "gz", []byte("\x1f\x8b\x08 and so on")), true, "neither ELF nor bzImage but gzip data: decompress it first"},
		{"--kernel " + write(t, "bz", bzImage()), true, "boot: kernel: "},
		{"--kernel " + kernel + " --initrd " + write(t, "rd", make([]byte, 9<<20)) + " --memory 8M", true, "give the VM at least"},
	} {
		t.Run(c.args, func(t *testing.T) {
			if c.kvm {
				vmmtest.NeedKVM(t)
			}
			out, err := govmm(append([]string{"boot"}, strings.Fields(c.args)...)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("%v, want exit status 1", err)
			}
			if got := string(out); !strings.Contains(got, c.says) || strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "govmm: ") {
				t.Errorf("got %q, want one line that says %q", got, c.says)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	out, err := govmm("boot", "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Ctrl-A x", "--kernel", "--initrd", "--disk", "FILE[,ro]", "rate=N", "--net", "tap=NAME", "--fs", "TAG=DIR", "--vsock", "--cpus", "--memory", "--max-memory", "--cmdline",
		"--trace-exits", "Examples:",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the help does not say %q:\n%s", want, out)
		}
	}
}

func TestExitsAreTraced(t *testing.T) {
	vmmtest.NeedKVM(t)
	out, err := govmm("boot", "--kernel", tiny(t, vmmtest.Reset), "--trace-exits", "--cpus", "2").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "out port 0x64") {
		t.Errorf("%v, %q, want a count of the write to port 0x64", err, out)
	}
}

// TestTerminalIsRestored ends the program in every way there is, and looks at the terminal afterwards.
func TestTerminalIsRestored(t *testing.T) {
	vmmtest.NeedKVM(t)
	spin := tiny(t, vmmtest.Spin)
	sig := func(s os.Signal) func(*exec.Cmd, *os.File) {
		return func(c *exec.Cmd, _ *os.File) { _ = c.Process.Signal(s) }
	}
	for name, c := range map[string]struct {
		kernel string
		end    func(c *exec.Cmd, keyboard *os.File)
		status int
	}{
		"escape":         {spin, func(_ *exec.Cmd, k *os.File) { _, _ = k.WriteString("abc\x01x") }, 0},
		"reset":          {tiny(t, vmmtest.Reset), nil, 0},
		"corrupt kernel": {write(t, "script", []byte("#!/bin/sh\n")), nil, 1},
		"SIGTERM":        {spin, sig(unix.SIGTERM), 1},
		"SIGHUP":         {spin, sig(unix.SIGHUP), 1},
		"SIGPIPE":        {spin, sig(unix.SIGPIPE), 1},
		"SIGQUIT":        {spin, sig(unix.SIGQUIT), 1},
	} {
		t.Run(name, func(t *testing.T) {
			pty, err := terminal.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer pty.Close()
			before := cooked(t, pty.Slave)
			cmd := govmm("boot", "--kernel", c.kernel, "--protocol", "pvh")
			var messages bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = pty.Slave, io.Discard, &messages
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if c.end != nil {
				waitRaw(t, pty.Slave, before)
				c.end(cmd, pty.Master)
			}
			stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			stop.Stop()
			if got := cmd.ProcessState.ExitCode(); got != c.status {
				t.Errorf("exit status %d, want %d: %s", got, c.status, &messages)
			}
			if after := mode(t, pty.Slave); after != before {
				t.Errorf("the terminal was %+v, is %+v", before, after)
			}
		})
	}
}

func mode(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// cooked gives a terminal the mode that a shell leaves it in.
func cooked(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m := mode(t, f)
	m.Lflag |= unix.ECHO | unix.ICANON | unix.ISIG
	m.Oflag |= unix.OPOST
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &m); err != nil {
		t.Fatal(err)
	}
	return mode(t, f)
}

// waitRaw waits until the program has made the terminal raw, and the VM runs.
func waitRaw(t *testing.T, f *os.File, before unix.Termios) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); mode(t, f) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the terminal is never made raw: the test shows nothing")
		}
	}
	time.Sleep(50 * time.Millisecond)
}
