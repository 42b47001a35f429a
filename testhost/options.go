package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: testhost [flags] [--] [CMD | PROG ARG...]

Boots Debian's cloud kernel under QEMU (TCG, emulated AMD-V) over a
copy-on-write view of this machine and runs one command in it as root:
one argument is a bash command line, several are a program and its
arguments, none is an interactive shell. Input, output, and exit status
are the command's. Fresh 20 GiB ext4 disk at /scratch (TMPDIR there),
cgroup v2, /dev/kvm, /dev/net/tun, /dev/vhost-*, loopback only.

Exit status: the command's (128+n for signal n); 124 after --timeout;
125 when the test host itself failed. GOVMM_TESTHOST_FLAGS holds flags
to be put before the given ones.

flags:
`

// insideEnv is set for commands inside the test host.
const insideEnv = "GOVMM_TESTHOST"

var errHelp = errors.New("help")

type options struct {
	argv        []string // what to execute
	shown       string   // the command as people typed it
	dir         string
	env         []string // NAME=value, for inside
	tty         bool
	smp         int
	memory      int64 // MiB
	icount      bool
	realIdle    bool
	oneThread   bool
	keepScratch bool
	scratchSize int64 // MiB
	timeout     time.Duration
	repeats     int
	hang        time.Duration
	logFile     string
	kernelArgs  []string
	qemuArgs    []string
	disks       []string
	writable    []string
	direct      bool
	where       bool
	verbose     bool
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	var env list
	var memory, scratch, cmdEnv string
	var shell bool
	fs := flag.NewFlagSet("testhost", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	// One: several hosts with one CPU each are quicker than one with several, whose threads wait for each other.
	fs.IntVar(&o.smp, "smp", 1, "virtual CPUs")
	fs.StringVar(&memory, "memory", "6G", "memory, with suffix M or G")
	fs.BoolVar(&o.icount, "icount", false, "one CPU whose clock counts instructions, one per nanosecond")
	fs.BoolVar(&o.realIdle, "real-idle", false, "with -icount: where nothing is to be done, the clock goes as the wall's instead of to the next timer at once")
	fs.BoolVar(&o.oneThread, "one-thread", false, "run all virtual CPUs in turn on one thread of QEMU")
	fs.BoolVar(&o.keepScratch, "keep-scratch", false, "use the scratch disk that is kept in the cache directory")
	fs.StringVar(&scratch, "scratch-size", "24G", "size of the (sparse) scratch disk")
	fs.DurationVar(&o.timeout, "timeout", 0, "end the test host after this time, exit status 124 (0: never)")
	fs.DurationVar(&o.hang, "hang", 60*time.Second, "without a heartbeat for this long the host counts as hung")
	fs.IntVar(&o.repeats, "repeats", 1, "repeat the command in a fresh host this often after the host hung or panicked")
	fs.StringVar(&o.logFile, "log", "", "write the serial console to this file")
	fs.Var((*list)(&o.kernelArgs), "kernel-arg", "further argument of the test host's kernel command line (repeatable)")
	fs.Var((*list)(&o.qemuArgs), "qemu-arg", "further argument of QEMU (repeatable)")
	fs.Var((*list)(&o.disks), "disk", "further raw disk image, FILE[,ro] (repeatable); its serial is the file's base name")
	fs.Var((*list)(&o.writable), "rw", "directory in which writes reach this machine (repeatable)")
	fs.Var(&env, "env", "pass variable NAME, or set NAME=VALUE, inside (repeatable); GOVMM_* always pass")
	fs.StringVar(&cmdEnv, "cmd-env", "", "take CMD from this environment variable; unset or empty: shell")
	fs.BoolVar(&shell, "tty", false, "run the command on a terminal (default without CMD)")
	fs.BoolVar(&o.direct, "direct", false, "run the command on this machine, without a test host")
	fs.BoolVar(&o.where, "where", false, `print "direct" if this machine's KVM runs guest kernels natively, else "testhost"`)
	fs.BoolVar(&o.verbose, "v", false, "report times, show the serial console on stderr")
	args = append(strings.Fields(os.Getenv("GOVMM_TESTHOST_FLAGS")), args...)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, errHelp
	case err != nil:
		return nil, err
	}
	if err := o.sizes(memory, scratch); err != nil {
		return nil, err
	}
	rest := fs.Args()
	if cmdEnv != "" {
		if len(rest) != 0 {
			return nil, errors.New("--cmd-env and a command exclude each other")
		}
		if v := os.Getenv(cmdEnv); v != "" {
			rest = []string{v}
		}
	}
	o.command(rest, shell)
	return o, o.environment(env)
}

func (o *options) sizes(memory, scratch string) (err error) {
	if o.memory, err = parseMiB(memory); err != nil {
		return fmt.Errorf("--memory: %w", err)
	}
	if o.scratchSize, err = parseMiB(scratch); err != nil {
		return fmt.Errorf("--scratch-size: %w", err)
	}
	if o.smp < 1 || o.smp > 64 {
		return fmt.Errorf("--smp: %d is not between 1 and 64", o.smp)
	}
	if o.realIdle && !o.icount {
		return errors.New("--real-idle: the clock is the wall's already; add --icount")
	}
	if o.icount {
		o.smp = 1
	}
	return nil
}

// command decides what is executed inside. A single argument goes to the
// shell as it is, so that nothing between the caller and bash quotes it again.
func (o *options) command(rest []string, tty bool) {
	o.tty = tty
	switch len(rest) {
	case 0:
		o.tty = true
		o.argv = []string{"/bin/bash", "-i"}
		o.shown = "interactive shell"
	case 1:
		o.argv = []string{"/bin/bash", "-c", rest[0]}
		o.shown = rest[0]
	default:
		o.argv = rest
		o.shown = shellJoin(rest)
	}
}

func (o *options) environment(names []string) (err error) {
	if o.dir, err = os.Getwd(); err != nil {
		return err
	}
	for i, d := range o.writable {
		if o.writable[i], err = filepath.Abs(d); err != nil {
			return err
		}
	}
	o.env, err = insideEnvironment(os.Environ(), names)
	return err
}

// insideEnvironment returns the environment of the command: what identifies
// root and its terminal, GOVMM_*, and what the caller named.
func insideEnvironment(outside, names []string) ([]string, error) {
	values := make(map[string]string)
	var env []string
	for _, kv := range outside {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
		if strings.HasPrefix(name, "GOVMM_") && name != insideEnv {
			env = append(env, kv)
		}
	}
	env = append(env, insideEnv+"=1", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "TMPDIR=/scratch/tmp")
	for name, fallback := range map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8",
	} {
		value := values[name]
		if value == "" {
			value = fallback
		}
		env = append(env, name+"="+value)
	}
	for _, kv := range names {
		name, _, given := strings.Cut(kv, "=")
		if name == "" {
			return nil, fmt.Errorf("--env %s: no name", kv)
		}
		if value, ok := values[name]; !given && ok {
			kv = name + "=" + value
		} else if !given {
			continue
		}
		env = setEnv(env, name, kv)
	}
	return env, nil
}

// setEnv replaces name's entry by kv: the first of two equal names wins in
// some programs and the last in others.
func setEnv(env []string, name, kv string) []string {
	for i := range env {
		if strings.HasPrefix(env[i], name+"=") {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}

// parseMiB parses a size with suffix M or G (or none: MiB).
func parseMiB(s string) (int64, error) {
	digits, unit := s, int64(1)
	switch {
	case strings.HasSuffix(s, "G"):
		digits, unit = s[:len(s)-1], 1024
	case strings.HasSuffix(s, "M"):
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("size %q: want a number with suffix M or G", s)
	}
	return n * unit, nil
}

// shellJoin quotes argv for people to read and paste.
func shellJoin(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = shellQuote(a)
	}
	return strings.Join(out, " ")
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./=:,+@%", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
