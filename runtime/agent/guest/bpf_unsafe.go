package guest

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfLoad and bpfAttach are the beginnings of union bpf_attr for two commands (bpf(2), <linux/bpf.h>).
type (
	bpfLoad struct {
		kind, count       uint32
		insns, license    uint64
		logLevel, logSize uint32
		logBuffer         uint64
	}
	bpfAttach struct{ target, program, kind, flags uint32 }
)

// loadDeviceProgram returns a descriptor of a program.
func loadDeviceProgram(program []byte) (int, error) {
	license := []byte("Apache-2.0\x00") // it calls none of the kernel's functions
	load := bpfLoad{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program) / insnSize),
		insns: uint64(uintptr(unsafe.Pointer(&program[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	// The kernel's verifier gives up, with EAGAIN, when a signal is pending, and each preemption by Go's scheduler is one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return -1, os.NewSyscallError("sigprocmask", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, os.NewSyscallError("bpf: load", errno)
	}
	return int(fd), nil
}

// attachDeviceProgram loads a program and attaches it to the cgroup at a descriptor, which it goes with.
func attachDeviceProgram(dir int, program []byte) error {
	fd, err := loadDeviceProgram(program)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attach := bpfAttach{target: uint32(dir), program: uint32(fd), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach))
	if errno != 0 {
		return os.NewSyscallError("bpf: attach", errno)
	}
	return nil
}
