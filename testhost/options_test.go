package main

import (
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptionsCommand(t *testing.T) {
	t.Setenv("GOVMM_TESTHOST_FLAGS", "")
	t.Setenv("THE_CMD", `echo "$x" '`)
	for name, c := range map[string]struct {
		args []string
		argv []string
		tty  bool
	}{
		"shell string":     {[]string{"--", `echo $HOME "a  b" \'`}, []string{"/bin/bash", "-c", `echo $HOME "a  b" \'`}, false},
		"without dashes":   {[]string{"--smp", "1", "true"}, []string{"/bin/bash", "-c", "true"}, false},
		"program":          {[]string{"--", "a.test", "-test.v", "$x"}, []string{"a.test", "-test.v", "$x"}, false},
		"none":             {nil, []string{"/bin/bash", "-i"}, true},
		"tty":              {[]string{"--tty", "--", "top"}, []string{"/bin/bash", "-c", "top"}, true},
		"from environment": {[]string{"--cmd-env", "THE_CMD"}, []string{"/bin/bash", "-c", `echo "$x" '`}, false},
		"unset there":      {[]string{"--cmd-env", "NO_CMD"}, []string{"/bin/bash", "-i"}, true},
	} {
		o, err := parseOptions(c.args, io.Discard)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(c.argv, o.argv); d != "" || o.tty != c.tty {
			t.Errorf("%s: tty %v, argv %s", name, o.tty, d)
		}
	}
}

func TestParseOptionsValues(t *testing.T) {
	t.Setenv("GOVMM_TESTHOST_FLAGS", "--smp 4 --one-thread")
	o, err := parseOptions([]string{"--memory", "512M", "--timeout", "90s", "--kernel-arg", "a", "--kernel-arg", "b=c", "x"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.smp != 4 || !o.oneThread || o.memory != 512 || o.timeout != 90*time.Second || !slices.Equal(o.kernelArgs, []string{"a", "b=c"}) {
		t.Errorf("got %+v", o)
	}
	if o, err = parseOptions([]string{"--icount", "x"}, io.Discard); err != nil || o.smp != 1 {
		t.Errorf("icount: smp = %d, err %v, want one CPU", o.smp, err)
	}
	for _, args := range [][]string{
		{"--memory", "0"}, {"--memory", "6T"}, {"--smp", "0"}, {"--scratch-size", "-1G"}, {"--env", "=x", "true"},
		{"--no-such-flag"}, {"--real-idle", "true"}, {"--cmd-env", "X", "true"},
	} {
		if _, err := parseOptions(args, io.Discard); err == nil || errors.Is(err, errHelp) {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestInsideEnvironment(t *testing.T) {
	outside := []string{"PATH=/p", "HOME=/h", "SECRET=1", "GOVMM_BIN=/b=c", "GOVMM_TESTHOST=x", "LANG=", "MINE=m"}
	got, err := insideEnvironment(outside, []string{"MINE", "ABSENT", "NEW=a=b", "TMPDIR=/t", "GOVMM_BIN=z"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{
		"GOVMM_BIN=z", "GOVMM_TESTHOST=1", "HOME=/h", "LANG=C.UTF-8", "LOGNAME=root", "MINE=m", "NEW=a=b",
		"PATH=/p", "SHELL=/bin/bash", "TERM=dumb", "TMPDIR=/t", "USER=root",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestShellQuote asks a shell.
func TestShellQuote(t *testing.T) {
	for _, s := range []string{"", "a", "a b", "$x", "it's", "'", "''", `"\`, "a\nb", "*", "~", "é", "-n", "a;b", "#"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+shellQuote(s)+"x").Output()
		if err != nil || string(out) != s+"x" {
			t.Errorf("%q quoted as %s: shell reads %q, %v", s, shellQuote(s), out, err)
		}
	}
	if got := shellJoin([]string{"ls", "-l", "a b"}); got != "ls -l 'a b'" {
		t.Errorf("got %s", got)
	}
}

func TestQEMUArgs(t *testing.T) {
	o := &options{smp: 3, memory: 100, disks: []string{"/a/b,ro", "/c/a-name-that-is-longer-than-20"}, kernelArgs: []string{"k=v"}}
	m := machine{kernel: "/k", initrd: 3, serial: 4, qmp: 5, control: 6, stream: 7, fs: 8, scratch: 9}
	line := strings.Join(qemuArgs(o, m), " ")
	for _, want := range []string{
		"-smp 3", "size=100M,share=on", "-accel tcg,thread=multi", "socket,id=qmp,fd=5", "file=/proc/self/fd/9",
		"file=/a/b,if=none,id=disk0,format=raw,discard=unmap,readonly=on", "drive=disk0,serial=b ",
		"drive=disk1,serial=a-name-that-is-longe ", "-no-reboot", "softlockup_panic=1 highres=off nohz=off k=v",
	} {
		if !strings.Contains(line+" ", want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	o.icount = true
	if line := strings.Join(qemuArgs(o, m), " "); !strings.Contains(line, "-icount shift=0,sleep=off") || strings.Contains(line, "thread=multi") || strings.Contains(line, "nohz=off") {
		t.Errorf("icount: %s", line)
	}
	o.realIdle = true
	if line := strings.Join(qemuArgs(o, m), " "); !strings.Contains(line, "-icount shift=0,sleep=on") {
		t.Errorf("real idle time: %s", line)
	}
}
