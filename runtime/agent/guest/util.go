package guest

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// wrapped is fmt.Errorf("%s: %w"): fmt and reflect would be a fifth of the binary.
type wrapped struct {
	context string
	err     error
}

func (w *wrapped) Error() string { return w.context + ": " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

func wrap(context string, err error) error {
	if err == nil {
		return nil
	}
	return &wrapped{context, err}
}

func failure(code agent.Code, text string) error { return &agent.Error{Code: code, Text: text} }

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// atLeast reports whether a kernel's release, such as 6.12.90, is major.minor or newer.
func atLeast(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(rest[:digits])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}

// BootTime is CLOCK_BOOTTIME in nanoseconds.
func BootTime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}

// maxStep is what the guest's clock may be off, in nanoseconds, before it is set: to set it always would make it jump
// by the latency of the message.
const maxStep = 2e6

func setTime(ns int64) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	if d := ns - now.Nano(); -maxStep < d && d < maxStep {
		return nil
	}
	ts := unix.NsecToTimespec(ns)
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

const rndReseedCRNG = 0x5207 // RNDRESEEDCRNG of <linux/random.h>

func configure(m *agent.Configure) error {
	if m.RealtimeNS != 0 {
		if err := setTime(m.RealtimeNS); err != nil {
			return err
		}
	}
	if m.Hostname != "" {
		if err := unix.Sethostname([]byte(m.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if len(m.Entropy) == 0 {
		return nil
	}
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("/dev/urandom", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, m.Entropy); err != nil {
		return wrap("/dev/urandom", err)
	}
	return os.NewSyscallError("RNDRESEEDCRNG", unix.IoctlSetInt(fd, rndReseedCRNG, 0))
}

// validID keeps an id to what can be the name of a cgroup.
func validID(id string) bool {
	return id != "" && id != "." && id != ".." && len(id) < 256 && !strings.ContainsAny(id, "/\x00\n")
}
