package seccomp

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childVar makes the test binary put itself under the filter of bigProfile and make one system call: its number and
// arguments are the variable's value.
const childVar = "GOVMM_SECCOMP_CHILD"

func TestMain(m *testing.M) {
	if call := os.Getenv(childVar); call != "" {
		if err := child(strings.Fields(call)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(words []string) error {
	var args [4]uintptr
	for i, w := range words {
		n, err := strconv.ParseUint(w, 0, 64)
		if err != nil {
			return err
		}
		args[i] = uintptr(n)
	}
	runtime.LockOSThread()
	if err := install(); err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(args[0], args[1], args[2], args[3])
	fmt.Print(int(errno))
	return nil
}

// install puts all threads of the process under the filter.
func install() error {
	s, err := Compile(bigProfile())
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(s.Filter))
	for i, in := range s.Filter {
		filter[i] = unix.SockFilter{Code: in.Code, Jt: in.JT, Jf: in.JF, K: in.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(s.Flags|unix.SECCOMP_FILTER_FLAG_TSYNC), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// TestKernel has this machine's kernel take a filter and judge real system calls by it.
func TestKernel(t *testing.T) {
	const killed = -1
	for _, tt := range []struct {
		name string
		call string
		want int // an errno, or killed by SIGSYS
	}{
		{"allowed", fmt.Sprint(unix.SYS_GETPID), 0},
		{"default", fmt.Sprint(unix.SYS_UNSHARE, " ", 0), int(unix.EPERM)},
		{"errnoRet", fmt.Sprint(unix.SYS_SETNS, " ", -1), int(unix.EXDEV)},
		{"newer than the profile", "1000", int(unix.ENOSYS)},
		{"argument equal", fmt.Sprint(unix.SYS_PERSONALITY, " 0xffffffff"), 0},
		{"argument equal in its low word", fmt.Sprint(unix.SYS_PERSONALITY, " 0x1ffffffff"), int(unix.EPERM)},
		{"argument not equal", fmt.Sprint(unix.SYS_PERSONALITY, " 1"), int(unix.EPERM)},
		{"argument less", fmt.Sprint(unix.SYS_SOCKET, " 1 1"), 0},
		{"argument not less", fmt.Sprint(unix.SYS_SOCKET, " 38 5"), int(unix.EPERM)},
		{"argument not greater", fmt.Sprint(unix.SYS_SOCKET, " 40 1"), int(unix.EPERM)},
		{"argument greater", fmt.Sprint(unix.SYS_SOCKET, " 100 1"), int(unix.EAFNOSUPPORT)},
		{"masked argument", fmt.Sprint(unix.SYS_CLONE, " ", unix.CLONE_NEWUSER), int(unix.EPERM)},
		{"masked argument matches", fmt.Sprint(unix.SYS_CLONE, " ", unix.CLONE_THREAD), int(unix.EINVAL)},
		{"logged", fmt.Sprint(unix.SYS_SETHOSTNAME, " 0 0xffffffff"), int(unix.EINVAL)},
		{"killed", fmt.Sprint(unix.SYS_REBOOT), killed},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+strings.ReplaceAll(tt.call, " -1", " 0xffffffffffffffff"))
		out, err := cmd.CombinedOutput()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch {
		case tt.want == killed:
			if !status.Signaled() || status.Signal() != unix.SIGSYS {
				t.Errorf("%s: %v, %s", tt.name, err, out)
			}
		case err != nil || string(out) != strconv.Itoa(tt.want):
			t.Errorf("%s: errno %s, %v, want %d", tt.name, out, err, tt.want)
		}
	}
}

// TestTrap shows the signal of SCMP_ACT_TRAP, which the Go runtime reports and dies of.
func TestTrap(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+fmt.Sprint(unix.SYS_SWAPOFF))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "SIGSYS: bad system call") {
		t.Errorf("%v: %s", err, out)
	}
}
